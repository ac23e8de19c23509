"""A sweep: all cells of a recipe as ordinary runs, and what came of them in files."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pipeline.recipe import SWEEP
from pipeline.runner import run_recipe
from pipeline.sweep.results import Group, Row, as_csv, as_record, group_rows, sweep_rows
from storage.durable import write_durably, write_json_durably

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pipeline.progress import Progress
    from pipeline.recipe import Recipe
    from pipeline.runner import Plan
    from pipeline.steps import Step
    from pipeline.sweep.expand import Cell
    from pipeline.up_to_date import Decision


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
    from pipeline.sweep.figures import draw_figures

    rows = sweep_rows(recipe, cells)
    groups = group_rows(rows)
    folder = recipe.folder / SWEEP
    folder.mkdir(parents=True, exist_ok=True)
    table, record = folder / "results.csv", folder / "results.json"
    write_durably(table, as_csv(rows).encode())
    write_json_durably(record, as_record(rows, groups))
    return Outcome(rows, groups, [table, record, *draw_figures(groups, folder)])
