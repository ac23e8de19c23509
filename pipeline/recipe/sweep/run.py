"""A sweep: all cells of a recipe as ordinary runs, and what came of them in files."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from compress_ssl.pipeline.recipe.file import SWEEP
from compress_ssl.pipeline.recipe.run import run_recipe
from compress_ssl.pipeline.recipe.sweep.results import Group, Row, as_csv, as_record, group_rows, sweep_rows
from compress_ssl.storage.places.durable import write_durably, write_json_durably

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from compress_ssl.pipeline.common.progress import Progress
    from compress_ssl.pipeline.recipe.file import Recipe
    from compress_ssl.pipeline.recipe.run import Plan
    from compress_ssl.pipeline.recipe.steps import Step
    from compress_ssl.pipeline.recipe.sweep.expand import Cell
    from compress_ssl.pipeline.recipe.up_to_date import Decision


class Outcome(NamedTuple):
    """What there is after a sweep."""

    rows: list[Row]
    groups: list[Group]
    files: list[Path]


def run_sweep(
    plan: Plan,
    cells: Sequence[Cell],
    progress: Progress,
    announce: Callable[[Decision], None],
    failed: Callable[[Step, str], None],
    *,
    together: int,
) -> Outcome:
    """Run what is out of date, cell by cell that can fail, and write the results of all there is.

    Parameters
    ----------
    plan : Plan
        Of the expanded recipe.
    cells : sequence of Cell
        As ``expand`` gave them.
    announce, failed
        As for ``run_recipe``.
    together : int
        Students on one stream of images, at most.

    Raises
    ------
    Stopped
        If a signal asked for the end. The results of what is done are written then too.
    """
    try:
        run_recipe(plan, progress, announce, together=together, failed=failed)
    finally:
        outcome = write_results(plan.recipe, cells)
    return outcome


def write_results(recipe: Recipe, cells: Sequence[Cell]) -> Outcome:
    """Write ``sweep/results.csv``, ``results.json`` and a figure for each swept field into the recipe's folder."""
    from compress_ssl.pipeline.recipe.sweep.figures import draw_figures

    rows = sweep_rows(recipe, cells)
    groups = group_rows(rows)
    folder = recipe.folder / SWEEP
    folder.mkdir(parents=True, exist_ok=True)
    table, record = folder / "results.csv", folder / "results.json"
    write_durably(table, as_csv(rows).encode())
    write_json_durably(record, as_record(rows, groups))
    return Outcome(rows, groups, [table, record, *draw_figures(groups, folder)])
