"""``compress-ssl sweep``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from compress_ssl.cli.groups import example
from compress_ssl.cli.output import echo, print_result, say
from compress_ssl.cli.run import recipe_options
from compress_ssl.cli.steps import print_plan, run_options, sentence, summary
from compress_ssl.pipeline.recipe.file import read_recipe
from compress_ssl.pipeline.recipe.steps import plan_steps, select_steps

if TYPE_CHECKING:
    from pathlib import Path

HELP = """Run all combinations of the lists of values in a recipe.

Each combination is an ordinary run. RECIPE is a TOML file, or a recipe of the package such as comparison. Lists are in
a 'sweep' table of [distill], of a [[student]] or of a [[pretrain]]. Students that see the same batches are trained
together. If a combination fails, the failure is recorded and the others still run; the same command retries it, and
resumes a sweep that was stopped.

Results are written to FOLDER/sweep: results.csv, results.json, and one figure per field.
"""


@click.command("sweep", help=HELP, epilog=example("compress-ssl sweep mine.toml --together 8"))
@recipe_options
@click.option(
    "--only",
    multiple=True,
    metavar="STEP",
    help="Run only this step, stage, or table with its combinations. Repeatable.",
)
@click.option(
    "--together",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Maximum number of students trained together in one pass over the images; fewer need less memory.",
)
@run_options
def command(
    recipe: str,
    data: Path | None,
    folder: Path | None,
    first: str | None,
    only: tuple[str, ...],
    together: int,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Expand a recipe, choose steps, run them, and show all results."""
    from compress_ssl.cli.progress import TerminalProgress
    from compress_ssl.cli.tables import print_table
    from compress_ssl.pipeline.recipe.run import plan_run, without_unmet
    from compress_ssl.pipeline.recipe.sweep.expand import expand
    from compress_ssl.pipeline.recipe.sweep.results import as_record, sweep_table
    from compress_ssl.pipeline.recipe.sweep.run import run_sweep

    expanded, cells = expand(read_recipe(recipe, data=data, folder=folder))

    def cells_of(name: str) -> list[str]:
        return [cell.name for cell in cells if cell.table == name] or [name]

    chosen = select_steps(
        plan_steps(expanded),
        first=cells_of(first)[0] if first else None,
        only=tuple(name for given in only for name in cells_of(given)),
    )
    steps, unmet = without_unmet(expanded, chosen)
    if unmet:
        say(f"Skipped, since a step that they need is not finished: {', '.join(step.name for step in unmet)}.")
    plan = plan_run(expanded, steps, force=force)
    if dry_run:
        print_plan(plan, as_json)
        return
    say(summary(plan.decisions))
    failures: list[str] = []

    def failed(step: object, reason: str) -> None:
        failures.append(reason)
        echo(f"failed: {reason}", err=True)

    rows, groups, files = run_sweep(
        plan, cells, TerminalProgress(), lambda decision: say(sentence(decision)), failed, together=together
    )

    def show() -> None:
        if groups:
            print_table(sweep_table(rows, groups))
        echo(*files)

    print_result(as_record(rows, groups), as_json, show)
    if failures:
        raise click.ClickException(
            f"{len(failures)} of {len(plan.steps)} steps failed; the reasons are above and in the results."
        )
