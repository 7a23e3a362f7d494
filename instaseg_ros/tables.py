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
    # Formatted here: what tabulate makes of numbers depends on its version.
    cells = [[_cell(value, form) for value, form in zip(row, formats, strict=True)] for row in rows]
    align = tuple("right" if form else "left" for form in formats)
    return tabulate(cells, headings, "plain", colalign=align, disable_numparse=True)


def _cell(value: object, form: str) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else format(value, form)
