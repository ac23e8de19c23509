"""One table of the results of several evaluations."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from compress_ssl.pipeline.common.errors import InputError


class Table(NamedTuple):
    """Column headings, and one row of cells per network."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def results_table(results: Iterable[Path]) -> Table:
    """Collect results, JSON files of evaluations, in one table; consecutive ones of one network share a row.

    Its columns are network, architecture, then all scores in percent, in the order of their first appearance. A cell is
    empty if a network has no such score.

    Raises:
        InputError: If a file cannot be read, or is not a result.
    """
    rows: list[tuple[tuple[str, str], dict[str, float]]] = []
    for path in results:
        network, scores = read_result(path)
        if rows and rows[-1][0] == network and not rows[-1][1].keys() & scores.keys():
            rows[-1][1].update(scores)
        else:
            rows.append((network, dict(scores)))
    headings = tuple(dict.fromkeys(heading for _, scores in rows for heading in scores))
    cells = [
        (*network, *(f"{scores[heading]:.1f}" if heading in scores else "" for heading in headings))
        for network, scores in rows
    ]
    return Table(("network", "architecture", *headings), cells)


def read_result(path: Path) -> tuple[tuple[str, str], dict[str, float]]:
    """Return name and architecture of a network, and its scores in percent by column heading.

    Raises:
        InputError: If the file cannot be read, or is not the result of an evaluation.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
        network = (str(record["network"]["name"]), str(record["network"]["architecture"]))
        return network, {str(heading): float(value) for heading, value in record["scores"].items()}
    except (OSError, ValueError) as error:
        raise InputError(f"The result '{path}' cannot be read ({error}); run the evaluation again.") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"'{path}' is not the result of an evaluation; run it again.") from error
