"""Run the cells of a sweep as ordinary steps, and write their results."""

from collections.abc import Callable, Sequence
from pathlib import Path

from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.recipe.file import SWEEP
from compress_ssl.pipeline.recipe.run import Plan, run_recipe
from compress_ssl.pipeline.recipe.steps import Step
from compress_ssl.pipeline.recipe.sweep.expand import Cell
from compress_ssl.pipeline.recipe.sweep.results import Group, Row, as_csv, as_record, group_rows, sweep_rows
from compress_ssl.pipeline.recipe.up_to_date import Decision
from compress_ssl.storage.places.durable import write_durably, write_json_durably


def run_sweep(
    plan: Plan,
    cells: Sequence[Cell],
    progress: Progress,
    announce: Callable[[Decision], None],
    failed: Callable[[Step, str], None],
    *,
    together: int,
) -> tuple[list[Row], list[Group], list[Path]]:
    """Run the steps that are out of date, continue after failures, and write the results of all cells.

    ``sweep/results.csv``, ``results.json`` and a figure for each swept field are written into the recipe's folder.

    Args:
        plan: Of the expanded recipe.
        cells (sequence of Cell): As returned by ``expand``.
        announce, failed: As for ``run_recipe``.
        together: Most students to train in one pass over the images.

    Returns:
        rows, groups: The results.
        files (list of Path): The files that hold them.

    Raises:
        Stopped: If a signal ends it; the results so far are written.
    """
    from compress_ssl.pipeline.recipe.sweep.figures import draw_figures

    try:
        run_recipe(plan, progress, announce, together=together, failed=failed)
    finally:
        rows = sweep_rows(plan.recipe, cells)
        groups = group_rows(rows)
        folder = plan.recipe.folder / SWEEP
        folder.mkdir(parents=True, exist_ok=True)
        table, record = folder / "results.csv", folder / "results.json"
        write_durably(table, as_csv(rows).encode())
        write_json_durably(record, as_record(rows, groups))
        files = [table, record, *draw_figures(groups, folder)]
    return rows, groups, files
