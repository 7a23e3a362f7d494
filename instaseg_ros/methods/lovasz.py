"""The Lovász hinge loss (Berman et al. 2018, arXiv 1705.08790)."""

from __future__ import annotations

import torch
from torch import Tensor


def lovasz_hinge(logits: Tensor, truth: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """Lovász hinge (Berman et al. 2018) of each group of pixels, averaged over the groups.

    logits: (N,) float, positive inside; truth: (N,) bool; group: (N,) int64, ascending.
    All groups are sorted at once, so the cost does not depend on their number.
    """
    signs = truth.to(logits.dtype) * 2 - 1
    errors = 1 - logits * signs
    with torch.no_grad():
        order = torch.argsort(errors, descending=True)
        order = order[torch.argsort(group[order], stable=True)]
        sorted_truth = truth[order].to(torch.float64)
        sorted_group = group[order]
        counts = torch.bincount(sorted_group, minlength=n_groups)
        starts = torch.cumsum(counts, 0) - counts
        total = torch.zeros(n_groups, dtype=torch.float64, device=logits.device)
        total.index_add_(0, sorted_group, sorted_truth)
        before = torch.cumsum(total, 0) - total
        hits = torch.cumsum(sorted_truth, 0) - before[sorted_group]
        rank = torch.arange(1, len(order) + 1, device=logits.device) - starts[sorted_group]
        positives = total[sorted_group]
        jaccard = 1 - (positives - hits) / (positives + rank - hits)
        gradient = jaccard.clone()
        gradient[1:] -= jaccard[:-1]
        first = starts[counts > 0]
        gradient[first] = jaccard[first]
    return torch.dot(torch.relu(errors[order]), gradient.to(errors.dtype)) / n_groups
