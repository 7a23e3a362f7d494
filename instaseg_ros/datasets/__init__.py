"""Datasets: each has `class_names`, a length, and gives a `Sample` per index."""

from .sample import Sample

__all__ = ["Sample"]
