"""Printing tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table as RichTable

    from pipeline.report.table import Table

UNLIMITED = 10_000
"""Characters of a line."""


def print_table(table: Table, title: str | None = None) -> None:
    """Print a table of results to standard output: words to the left, numbers to the right.

    One that is wider than the terminal has a network a column instead of a row.
    """
    from rich.console import Console

    console = Console(markup=False, highlight=False)  # a name may hold brackets
    shown = _rich_table([table.columns, *table.rows], title)
    unlimited = console.options.update(width=UNLIMITED)
    if console.measure(shown, options=unlimited).maximum > console.width:
        shown = _rich_table(list(zip(table.columns, *table.rows, strict=True)), title)
    console.print(shown)


def _rich_table(lines: Sequence[Sequence[str]], title: str | None) -> RichTable:
    """A table of these lines, the first of which is the heading."""
    from rich.table import Table as RichTable

    heading, *rows = lines
    shown = RichTable(title=title, title_justify="left")
    for number, column in enumerate(heading):
        is_number = any(row[number].replace(".", "").isdigit() for row in rows)
        shown.add_column(column, justify="right" if is_number else "left")
    for row in rows:
        shown.add_row(*row)
    return shown
