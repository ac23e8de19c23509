"""One table of everything that was evaluated."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


class Table(NamedTuple):
    """Headings, and a row of cells for each network."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


class _Row(NamedTuple):
    """What a result file says of one network; top-1 in percent."""

    network: str
    architecture: str
    weighted_knn: dict[tuple[int, float], float]
    """By number of neighbours and temperature."""
    nearest: dict[int | None, float]
    """By labels a class; None is all of them."""


def results_table(results: Iterable[Path]) -> Table:
    """Read nearest-neighbour results into one table.

    Parameters
    ----------
    results : iterable of paths
        JSON files of evaluations; a row each, in this order.

    Returns
    -------
    table : Table
        Columns: network, architecture, NN from all labels, k-NN with each number of neighbours, NN from each number of
        labels a class; in percent. A cell is empty where a network was not scored that way.

    Raises
    ------
    InputError
        If a file cannot be read, or is not such a result.
    """
    rows = [_read(path) for path in results]
    votes = sorted({vote for row in rows for vote in row.weighted_knn})
    few_labels = sorted({count for row in rows for count in row.nearest if count is not None})
    cells = [
        (
            row.network,
            row.architecture,
            _percent(row.nearest.get(None)),
            *(_percent(row.weighted_knn.get(vote)) for vote in votes),
            *(_percent(row.nearest.get(count)) for count in few_labels),
        )
        for row in rows
    ]
    headings = (*_vote_headings(votes), *(f"NN, {count} labels a class" for count in few_labels))
    return Table(("network", "architecture", "NN", *headings), cells)


def _vote_headings(votes: Sequence[tuple[int, float]]) -> list[str]:
    """``k-NN 20``; the temperature is said where networks were scored with several."""
    several = len({temperature for _, temperature in votes}) > 1
    return [f"k-NN {count}" + (f", T {temperature:g}" if several else "") for count, temperature in votes]


def _read(path: Path) -> _Row:
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
        return _Row(
            network=record["network"]["name"],
            architecture=record["network"]["architecture"],
            weighted_knn={
                (vote["neighbours"], vote["temperature"]): vote["top1_percent"]
                for vote in record.get("weighted_knn", ())  # results of earlier releases have none
            },
            nearest={result["labels_per_class"]: result["top1_percent"] for result in record["results"]},
        )
    except (OSError, ValueError) as error:
        raise InputError(f"The result '{path}' cannot be read ({error}); run the evaluation again.") from error
    except (KeyError, TypeError) as error:
        raise InputError(f"'{path}' is not the result of a nearest-neighbour evaluation; run it again.") from error


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
