"""Printing tables."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table as RichTable

    from pipeline.report.table import Table

NUMBER = r"[\d.]+( ± [\d.]+)?"
UNLIMITED = 10_000
"""Characters of a line."""


def print_table(table: Table, title: str | None = None) -> None:
    """Print a table of results to standard output: words to the left, numbers to the right.

    One that is wider than the terminal has a network a column instead of a row, unless that is wider still.
    """
    from rich.console import Console

    console = Console(markup=False, highlight=False)  # a name may hold brackets
    unlimited = console.options.update(width=UNLIMITED)
    lines = [table.columns, *table.rows]
    upright, turned = (_rich_table(each, title) for each in (lines, list(zip(*lines, strict=True))))
    width, width_turned = (console.measure(each, options=unlimited).maximum for each in (upright, turned))
    console.print(turned if width > console.width and width_turned < width else upright)


def _rich_table(lines: Sequence[Sequence[str]], title: str | None) -> RichTable:
    """A table of these lines, the first of which is the heading."""
    from rich.table import Table as RichTable

    heading, *rows = lines
    shown = RichTable(title=title, title_justify="left")
    for number, column in enumerate(heading):
        is_number = any(re.fullmatch(NUMBER, row[number]) for row in rows)
        shown.add_column(column, justify="right" if is_number else "left")
    for row in rows:
        shown.add_row(*row)
    return shown
