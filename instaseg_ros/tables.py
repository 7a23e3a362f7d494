"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tabulate import tabulate


def text_table(
    headings: Sequence[str], rows: Iterable[Sequence[object]], formats: Sequence[str]
) -> str:
    """Rows under their headings; `-` where there is None.

    formats: of each column: `.1f` and the like for numbers, which stand right; empty for words,
    which stand left and stay as they are.
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
