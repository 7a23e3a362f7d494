"""Detects steps whose gradient is not finite, without waiting for the GPU in every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Noted(NamedTuple):
    """norm: norm of a step's gradient. terms: terms of its loss."""

    step: int
    norm: Tensor
    terms: Mapping[str, Tensor]


class GradientNorms:
    """The gradients of the steps since the last check.

    deferred: the optimiser is fused. Then a step without a finite gradient changes no weight, nor
    do later steps, until `first_bad` is called: before each validation and before anything is
    saved, as BatchNorm's statistics have seen what the weights have not.
    """

    def __init__(self, deferred: bool) -> None:
        self.deferred = deferred
        self._noted: list[Noted] = []
        self._bad: Tensor | None = None

    def note(self, noted: Noted, optimizer: torch.optim.Optimizer) -> None:
        """Note a step; call this between the backward pass and the optimiser's step."""
        self._noted.append(noted)
        if self.deferred:
            bad = (~torch.isfinite(noted.norm)).float()
            self._bad = bad if self._bad is None else torch.maximum(self._bad, bad)
            optimizer.found_inf = self._bad  # type: ignore[attr-defined]  # torch's: skip the step

    def first_bad(self) -> Noted | None:
        """The first step since the last check whose gradient is not finite; waits for the GPU."""
        noted, self._noted = self._noted, []
        if not noted:
            return None
        finite = torch.isfinite(torch.stack([step.norm for step in noted])).tolist()
        return None if all(finite) else noted[finite.index(False)]
