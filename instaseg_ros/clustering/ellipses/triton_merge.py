"""Triton kernels that bring the accepted instances of all classes into one label image.

The *rank* of an instance is its place among all of its image, best seed first, from 1; 0: none.
The *report* (B, K, 11) int32 is what the host reads in the end. Row 0 has the numbers of accepted
instances, of kept ones, of ones not judged yet, the greatest number in one class, and the memory
that the points needed. Row r has, of the instance of rank r: class, label or 0, and as float32 bits
score, centre x and y, scale x and y; columns 7 to 10 are the box of the instance labelled r.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, no-check-untyped-defs
from __future__ import annotations

import triton
import triton.language as tl

from instaseg_ros.clustering.ellipses.triton_kernels import _distance, _points


@triton.jit
def rank(
    embedding, scale,
    accepted,  # (B, C, SLOTS) int64 keys of seeds, score bits above, in each class best first
    scores,  # (B, C, SLOTS) float32 of their instances
    n_accepted,
    ellipses,  # out: (B, C, SLOTS, 4) float32: centre x, y, scale x, y
    ranks,  # out: (B, C, SLOTS) int32
    report,
    n_pixels, n_classes,
    SIGMA: tl.constexpr, SLOTS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    slot = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    class_id = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    own = image * n_classes + class_id
    valid = slot < tl.minimum(tl.load(n_accepted + own), SLOTS)
    key = tl.load(accepted + own * SLOTS + slot, mask=valid, other=0)
    better = tl.zeros([BLOCK], tl.int32) + 1
    if tl.max(valid.to(tl.int32)) > 0:
        for other in range(n_classes):
            n_other = tl.minimum(tl.load(n_accepted + image * n_classes + other), SLOTS)
            for k in range(n_other):
                rival = tl.load(accepted + (image * n_classes + other) * SLOTS + k) >> 32
                earlier = (other < class_id) | ((other == class_id) & (k < slot))
                wins = (rival > (key >> 32)) | ((rival == (key >> 32)) & earlier)
                better += wins.to(tl.int32)
        pixel = 0xFFFFFFFF - (key & 0xFFFFFFFF)
        tl.store(ranks + own * SLOTS + slot, better, mask=valid)
        out = report + image * (n_classes * SLOTS + 1) * WIDTH + better.to(tl.int64) * WIDTH
        tl.store(out, tl.zeros_like(slot) + class_id, mask=valid)
        its_score = tl.load(scores + own * SLOTS + slot, mask=valid)
        tl.store(out + 2, its_score.to(tl.int32, bitcast=True), mask=valid)
        for axis in tl.static_range(2):
            center = tl.load(embedding + (image * 2 + axis) * n_pixels + pixel, mask=valid)
            sigma = axis * (SIGMA - 1)
            width = tl.load(scale + (image * SIGMA + sigma) * n_pixels + pixel, mask=valid)
            tl.store(ellipses + (own * SLOTS + slot) * 4 + axis, center, mask=valid)
            tl.store(ellipses + (own * SLOTS + slot) * 4 + 2 + axis, width, mask=valid)
            tl.store(out + 3 + axis, center.to(tl.int32, bitcast=True), mask=valid)
            tl.store(out + 5 + axis, width.to(tl.int32, bitcast=True), mask=valid)


@triton.jit
def claim(
    embedding, scale, score, ellipses, ranks, n_accepted,
    claims,  # out: (B, C, P) int16, the rank that each class gives a pixel
    sizes,  # (B, K) int32, zeros: add the pixels of each rank
    n_pixels, n_classes, threshold, largest_distance,
    SIGMA: tl.constexpr, SLOTS: tl.constexpr, BLOCK: tl.constexpr, FIRST_COME: tl.constexpr,
):  # fmt: skip
    """Each point goes to the first, or to the last, accepted instance that has it for a member."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    class_id = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    own = image * n_classes + class_id
    homeless, _, x, y, _ = _points(
        embedding, scale, score, image, class_id, at, n_pixels, n_classes, threshold,
        0.0, 0.0, SIGMA, 1, 1,
    )  # fmt: skip
    owner = tl.zeros([BLOCK], tl.int32)
    n_homeless = tl.sum(homeless.to(tl.int32))
    left = tl.minimum(tl.load(n_accepted + own), SLOTS)
    k = 0 if FIRST_COME else left - 1
    while (left > 0) & (n_homeless > 0):
        ellipse = ellipses + (own * SLOTS + k) * 4
        distance = _distance(
            x, y, tl.load(ellipse), tl.load(ellipse + 1), tl.load(ellipse + 2),
            tl.load(ellipse + 3),
        )  # fmt: skip
        member = homeless & (distance <= largest_distance)
        n_members = tl.sum(member.to(tl.int32))
        if n_members > 0:
            its_rank = tl.load(ranks + own * SLOTS + k)
            owner = tl.where(member, its_rank, owner)
            size = sizes + image * (n_classes * SLOTS + 1) + its_rank
            tl.atomic_add(size, n_members, sem="relaxed")
            homeless = homeless & (owner == 0)
            n_homeless -= n_members
        k += 1 if FIRST_COME else -1
        left -= 1
    tl.store(claims + own * n_pixels + at, owner.to(tl.int16), mask=at < n_pixels)


@triton.jit
def _judge(sizes, contest, its_rank, mask, fraction, FIRST: tl.constexpr):
    """Whether instances are kept, and whether they cannot be judged yet."""
    if FIRST:
        is_open = mask
        kept = mask & (its_rank < 0)
    else:
        size = tl.load(sizes + its_rank, mask=mask, other=0)
        new = size - tl.load(contest + its_rank * 2, mask=mask, other=0)
        is_open = tl.load(contest + its_rank * 2 + 1, mask=mask, other=0) > 0
        share = new.to(tl.float64) / tl.maximum(size, 1).to(tl.float64)
        kept = mask & ~is_open & (new > 0) & (share > fraction)
    return kept, is_open


@triton.jit
def settle(
    claims, sizes,
    before,  # (B, K, 2) int32: pixels lost to kept rivals, and to rivals not judged, last round
    after,  # (B, K, 2) int32, zeros: the same, now
    min_new_fraction, n_pixels, n_classes,
    SLOTS: tl.constexpr, BLOCK: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    """One round of `plain.settle`: judge all whose better rivals have been judged."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    inside = at < n_pixels
    claims += image * n_classes * n_pixels
    sizes += image * (n_classes * SLOTS + 1)
    before += image * (n_classes * SLOTS + 1) * 2
    after += image * (n_classes * SLOTS + 1) * 2
    fraction = tl.load(min_new_fraction)
    n_claims = tl.zeros([BLOCK], tl.int32)
    for c in range(n_classes):
        n_claims += (tl.load(claims + c * n_pixels + at, mask=inside, other=0) > 0).to(tl.int32)
    if tl.max(n_claims) > 1:
        inside = inside & (n_claims > 1)
        for c in range(n_classes):
            own = tl.load(claims + c * n_pixels + at, mask=inside, other=0).to(tl.int32)
            lost = own < 0
            unsure = own < 0
            for d in range(n_classes):
                rival = tl.load(claims + d * n_pixels + at, mask=inside, other=0).to(tl.int32)
                better = (rival > 0) & (rival < own)
                kept, is_open = _judge(sizes, before, rival, better, fraction, FIRST)
                lost = lost | kept
                unsure = unsure | is_open
            tl.atomic_add(after + own * 2, 1, mask=lost, sem="relaxed")
            tl.atomic_add(after + own * 2 + 1, 1, mask=unsure & ~lost, sem="relaxed")


@triton.jit
def number(
    sizes, contest, n_accepted, class_ends,
    report,  # labels and row 0 are filled in, boxes are made empty
    min_new_fraction, n_classes, height, width,
    SLOTS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0).to(tl.int64)
    sizes += image * (n_classes * SLOTS + 1)
    contest += image * (n_classes * SLOTS + 1) * 2
    report += image * (n_classes * SLOTS + 1) * WIDTH
    fraction = tl.load(min_new_fraction)
    total = 0
    most = 0
    for c in range(n_classes):
        n = tl.load(n_accepted + image * n_classes + c)
        total += tl.minimum(n, SLOTS)
        most = tl.maximum(most, n)
    n_kept = 0
    n_open = 0
    for start in range(1, total + 1, BLOCK):
        its_rank = start + tl.arange(0, BLOCK)
        valid = its_rank <= total
        kept, is_open = _judge(sizes, contest, its_rank, valid, fraction, False)
        label = n_kept + tl.cumsum(kept.to(tl.int32), 0)
        out = report + its_rank * WIDTH
        tl.store(out + 1, tl.where(kept, label, 0), mask=valid)
        tl.store(out + 7, tl.zeros([BLOCK], tl.int32) + width, mask=valid)
        tl.store(out + 8, tl.zeros([BLOCK], tl.int32) + height, mask=valid)
        tl.store(out + 9, tl.zeros([BLOCK], tl.int32), mask=valid)
        tl.store(out + 10, tl.zeros([BLOCK], tl.int32), mask=valid)
        n_kept += tl.sum(kept.to(tl.int32))
        n_open += tl.sum(is_open.to(tl.int32))
    tl.store(report, total)
    tl.store(report + 1, n_kept)
    tl.store(report + 2, n_open)
    tl.store(report + 3, most)
    tl.store(report + 4, tl.load(class_ends + image * n_classes + n_classes - 1))


@triton.jit
def paint(
    claims, report,
    labels,  # out: (B, P) int16
    n_pixels, n_classes,
    SLOTS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """A pixel gets the label of the best kept instance that claims it."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    inside = at < n_pixels
    report += image * (n_classes * SLOTS + 1) * WIDTH
    label = tl.zeros([BLOCK], tl.int32)
    for c in range(n_classes):
        own = tl.load(claims + (image * n_classes + c) * n_pixels + at, mask=inside, other=0)
        its = tl.load(report + own.to(tl.int32) * WIDTH + 1, mask=inside & (own > 0), other=0)
        label = tl.where((its > 0) & ((label == 0) | (its < label)), its, label)
    tl.store(labels + image * n_pixels + at, label.to(tl.int16), mask=inside)


@triton.jit
def measure(
    labels, report, n_pixels, width, rows_per_image,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Widen boxes by the ends of each label's stretches along the image rows."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    labels += image * n_pixels
    x = at % width
    y = at // width
    label = tl.load(labels + at, mask=at < n_pixels, other=0).to(tl.int32)
    before = tl.load(labels + at - 1, mask=(x > 0) & (at < n_pixels), other=0).to(tl.int32)
    after = tl.load(labels + at + 1, mask=(x < width - 1) & (at < n_pixels), other=0).to(tl.int32)
    box = report + (image * rows_per_image + label) * WIDTH + 7
    starts = (label > 0) & (label != before)
    ends = (label > 0) & (label != after)
    tl.atomic_min(box, x, mask=starts, sem="relaxed")
    tl.atomic_min(box + 1, y, mask=starts, sem="relaxed")
    tl.atomic_max(box + 2, x + 1, mask=ends, sem="relaxed")
    tl.atomic_max(box + 3, y + 1, mask=ends, sem="relaxed")
