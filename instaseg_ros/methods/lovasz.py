"""Computes the Lovász hinge loss (Berman et al. 2018, arXiv 1705.08790)."""

from __future__ import annotations

import torch
from torch import Tensor


def lovasz_hinge(logits: Tensor, truth: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """Lovász hinge (Berman et al. 2018) of each group of pixels, averaged over `n_groups`.

    logits: (N,) float32, positive inside; truth: (N,) bool; group: (N,) int64 below `n_groups`.
    All groups are sorted at once, so the cost does not depend on their number.
    """
    signs = truth.to(logits.dtype) * 2 - 1
    errors = torch.relu(1 - logits * signs)
    with torch.no_grad():
        # The bits of non-negative floats sort like the floats: one sort by group and by error.
        falling = torch.iinfo(torch.int32).max - errors.detach().view(torch.int32).long()
        order = torch.argsort((group << 32) | falling)
        sorted_truth = truth[order].to(torch.float64)
        sorted_group = group[order]
        counts = group.new_zeros(n_groups).index_add_(0, group, torch.ones_like(group))
        starts = torch.cumsum(counts, 0) - counts
        ones = truth.to(torch.float64)
        total = ones.new_zeros(n_groups).index_add_(0, group, ones)
        before = torch.cumsum(total, 0) - total
        hits = torch.cumsum(sorted_truth, 0) - before[sorted_group]
        rank = torch.arange(1, len(order) + 1, device=logits.device) - starts[sorted_group]
        positives = total[sorted_group]
        jaccard = 1 - (positives - hits) / (positives + rank - hits)
        before_it = jaccard.roll(1).masked_fill(rank == 1, 0)
        gradient = jaccard - before_it
        weights = torch.empty_like(errors).index_copy_(0, order, gradient.to(errors.dtype))
    return torch.dot(errors, weights) / n_groups
