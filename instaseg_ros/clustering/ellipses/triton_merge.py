"""Triton kernels that merge the accepted instances of all classes into one label image.

The *rank* of an instance is its place among all instances of its image, best seed first, from 1;
0: none. The *report* (B, K, 11) int32 is what the host finally reads. Row 0 has the numbers of
accepted, kept and undecided instances, the greatest number in one class, and the memory that the
points needed. Row r describes the instance of rank r: class, label or 0, and as float32 bits score,
centre x and y, scale x and y; columns 7 to 10 are the box of the instance labelled r.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, no-check-untyped-defs
from __future__ import annotations

import triton
import triton.language as tl

from instaseg_ros.clustering.ellipses.triton_kernels import (
    _distance,
    _ellipse,
    _embedded,
    _n_classes_at,
    _raw,
)


@triton.jit
def rank(
    offset, offset_b, offset_c, offset_y, offset_x,
    bandwidth, bandwidth_b, bandwidth_c, bandwidth_y, bandwidth_x,
    lattice_x, lattice_y,
    accepted,  # (B, C, SLOTS) int64 keys of seeds, best first in each class
    scores,  # (B, C, SLOTS) float32 of their instances
    n_accepted,
    ellipses,  # out: (B, C, SLOTS, 4) float32: centre x, y, scale x, y
    ranks,  # out: (B, C, SLOTS) int32
    report,
    width, n_classes, gain,
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
        pixel = tl.where(valid, 0xFFFFFFFF - (key & 0xFFFFFFFF), 0).to(tl.int32)
        row = pixel // width
        column = pixel % width
        center_x, center_y, scale_x, scale_y = _ellipse(
            offset + image * offset_b + row * offset_y + column * offset_x, offset_c,
            bandwidth + image * bandwidth_b + row * bandwidth_y + column * bandwidth_x, bandwidth_c,
            lattice_x + column, lattice_y + row, gain, valid, SIGMA,
        )  # fmt: skip
        tl.store(ranks + own * SLOTS + slot, better, mask=valid)
        out = report + image * (n_classes * SLOTS + 1) * WIDTH + better.to(tl.int64) * WIDTH
        tl.store(out, tl.zeros_like(slot) + class_id, mask=valid)
        its_score = tl.load(scores + own * SLOTS + slot, mask=valid)
        tl.store(out + 2, its_score.to(tl.int32, bitcast=True), mask=valid)
        ellipse = ellipses + (own * SLOTS + slot) * 4
        tl.store(ellipse, center_x, mask=valid)
        tl.store(ellipse + 1, center_y, mask=valid)
        tl.store(ellipse + 2, scale_x, mask=valid)
        tl.store(ellipse + 3, scale_y, mask=valid)
        tl.store(out + 3, center_x.to(tl.int32, bitcast=True), mask=valid)
        tl.store(out + 4, center_y.to(tl.int32, bitcast=True), mask=valid)
        tl.store(out + 5, scale_x.to(tl.int32, bitcast=True), mask=valid)
        tl.store(out + 6, scale_y.to(tl.int32, bitcast=True), mask=valid)


@triton.jit
def claim(
    offset, offset_b, offset_c, offset_y, offset_x,
    bandwidth, bandwidth_b, bandwidth_c, bandwidth_y, bandwidth_x,
    seed, seed_b, seed_c, seed_y, seed_x,
    lattice_x, lattice_y,
    busy,  # in: whether a block has points; out: most classes that claim one of its pixels
    ellipses, ranks, n_accepted,
    claims,  # out: (B, C, P) int16, each class's rank of a pixel, in blocks with points
    sizes,  # (B, K) int32, initially 0: out: the pixels of each rank
    n_pixels, width, n_classes, least_logit, largest_distance,
    SIGMA: tl.constexpr, SLOTS: tl.constexpr, BLOCK: tl.constexpr, FIRST_COME: tl.constexpr,
):  # fmt: skip
    """Give each point to the first, or the last, accepted instance of which it is a member."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    inside = at < n_pixels
    row = at // width
    column = at % width
    offset += image * offset_b + row * offset_y + column * offset_x
    bandwidth += image * bandwidth_b + row * bandwidth_y + column * bandwidth_x
    seed += image * seed_b + row * seed_y + column * seed_x
    busy += image * tl.num_programs(0) + tl.program_id(0)
    if tl.load(busy) > 0:
        n = _n_classes_at(seed, seed_c, inside, n_classes, least_logit)
        usable, x, y = _embedded(
            offset,
            offset_c,
            bandwidth,
            bandwidth_c,
            lattice_x + column,
            lattice_y + row,
            n > 0,
            SIGMA,
        )
        n_claims = tl.zeros([BLOCK], tl.int32)
        for class_id in range(n_classes):
            own = image * n_classes + class_id
            homeless = usable & (_raw(seed + class_id * seed_c, inside) >= least_logit)
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
            tl.store(claims + own * n_pixels + at, owner.to(tl.int16), mask=inside)
            n_claims += (owner > 0).to(tl.int32)
        tl.store(busy, tl.max(n_claims))


@triton.jit
def _judge(sizes, contest, its_rank, mask, fraction, FIRST: tl.constexpr):
    """Whether instances are kept, and whether they cannot be decided yet."""
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
    busy, claims, sizes,
    before,  # (B, K, 2) int32: pixels lost to kept and to undecided rivals, last round
    after,  # (B, K, 2) int32, initially 0: out: the same, this round
    min_new_fraction, n_pixels, n_classes,
    SLOTS: tl.constexpr, BLOCK: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    """One round: decide the instances whose better rivals have all been decided.

    An instance is kept if the pixels that no better one of another class has taken are more than a
    given share of its own. A round decides at least the best of those left, and usually nearly all.
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    if tl.load(busy + image * tl.num_programs(0) + tl.program_id(0)) > 1:
        inside = at < n_pixels
        claims += image * n_classes * n_pixels
        sizes += image * (n_classes * SLOTS + 1)
        before += image * (n_classes * SLOTS + 1) * 2
        after += image * (n_classes * SLOTS + 1) * 2
        fraction = tl.load(min_new_fraction)
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
    report,  # out: labels and row 0; boxes are emptied
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
    busy, claims, report,
    labels,  # out: (B, P) int16
    n_pixels, n_classes,
    SLOTS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Give each pixel the label of the best kept instance that claims it."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    inside = at < n_pixels
    report += image * (n_classes * SLOTS + 1) * WIDTH
    label = tl.zeros([BLOCK], tl.int32)
    if tl.load(busy + image * tl.num_programs(0) + tl.program_id(0)) > 0:
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
    """Extend boxes by the ends of each label's runs along the image rows."""
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
