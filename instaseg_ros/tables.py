"""Formats tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tabulate import tabulate


def text_table(
    headings: Sequence[str], rows: Iterable[Sequence[object]], formats: Sequence[str]
) -> str:
    """Rows under their headings; `-` for None.

    formats: one for each column: `.1f` and the like for numbers, aligned right; empty for words,
    aligned left and unchanged.
    """
    return tabulate(
        rows,
        headings,
        "plain",
        floatfmt=tuple(formats),
        missingval="-",
        colalign=tuple("right" if form else "left" for form in formats),
        disable_numparse=[column for column, form in enumerate(formats) if not form],
    )
