"""One table of everything that was evaluated."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


class Table(NamedTuple):
    """Headings, and a row of cells for each network."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def results_table(results: Iterable[Path]) -> Table:
    """Read nearest-neighbour results into one table.

    Parameters
    ----------
    results : iterable of paths
        JSON files of evaluations; a row each, in this order.

    Returns
    -------
    table : Table
        Columns: network, architecture, then NN from all labels and from each number of labels a class, in percent.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    records = [_read(path) for path in results]
    labelled = sorted(
        {result["labels_per_class"] for record in records for result in record["results"]},
        key=lambda count: (count is not None, count),
    )
    rows = []
    for record in records:
        by_count = {result["labels_per_class"]: result for result in record["results"]}
        cells = [_percent(by_count.get(count)) for count in labelled]
        rows.append((record["network"]["name"], record["network"]["architecture"], *cells))
    headings = ["NN" if count is None else f"NN, {count} labels a class" for count in labelled]
    return Table(("network", "architecture", *headings), rows)


def _read(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"The result '{path}' cannot be read ({error}); run the evaluation again.") from error
    return record


def _percent(result: Mapping[str, float] | None) -> str:
    return "" if result is None else f"{result['top1_percent']:.1f}"
