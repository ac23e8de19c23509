"""Printing tables."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from compress_ssl.storage.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.table import Table as RichTable

    from compress_ssl.pipeline.evaluate.results_table import Table

    Lines = Sequence[Sequence[str]]

NUMBER = r"[\d.]+( ± [\d.]+)?"
UNLIMITED = 10_000  # characters of a line


def print_table(table: Table, title: str | None = None) -> None:
    """Print a table of results to standard output: words to the left, numbers to the right.

    One that is wider than the terminal has a network a column instead of a row, if that fits; else it is printed in
    parts, some columns at a time. The table's notes follow, a line each.
    """
    from rich.console import Console

    console = Console(markup=False, highlight=False, emoji=False)  # a name may hold brackets and colons

    def fits(lines: Lines) -> bool:
        unlimited = console.options.update(width=UNLIMITED)
        return console.measure(_rich_table(lines, title), options=unlimited).maximum <= console.width

    lines = [table.columns, *table.rows]
    turned = list(zip(*lines, strict=True))
    parts = [lines] if fits(lines) else [turned] if fits(turned) else _parts(lines, fits)
    for number, part in enumerate(parts):
        console.print(_rich_table(part, title if number == 0 else None))
    for note in table.notes:
        console.print(printable(note))


def _parts(lines: Lines, fits: Callable[[Lines], bool]) -> list[Lines]:
    """Cut a table between columns: the first column, and as many of the others as fit, at least one."""
    columns = list(zip(*lines, strict=True))
    parts: list[Lines] = []
    shown = columns[:1]
    for column in columns[1:]:
        if len(shown) > 1 and not fits(list(zip(*shown, column, strict=True))):
            parts.append(list(zip(*shown, strict=True)))
            shown = columns[:1]
        shown.append(column)
    return [*parts, list(zip(*shown, strict=True))]


def _rich_table(lines: Lines, title: str | None) -> RichTable:
    """A table of these lines, the first of which is the heading."""
    from rich.table import Table as RichTable

    heading, *rows = lines
    shown = RichTable(title=printable(title) if title else None, title_justify="left")
    for number, column in enumerate(heading):
        is_number = any(re.fullmatch(NUMBER, row[number]) for row in rows)
        shown.add_column(printable(column), justify="right" if is_number else "left")
    for row in rows:
        shown.add_row(*map(printable, row))
    return shown
