"""``compress-ssl run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.groups import example

if TYPE_CHECKING:
    from pipeline.runner import Decision


@click.command("run", epilog=example("compress-ssl run mine.toml --from distill"))
@click.argument("recipe")
@click.option("--data", type=click.Path(path_type=Path), help="Data set to use instead of the recipe's.")
@click.option("--folder", type=click.Path(path_type=Path), help="Folder to write to instead of the recipe's.")
@click.option("--from", "first", metavar="STEP", help="Begin at this step or stage.")
@click.option("--only", multiple=True, metavar="STEP", help="Run only this step or stage. Repeatable.")
@click.option("--force", is_flag=True, help="Run the steps again even if they are up to date.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and why, and do nothing.")
def command(
    recipe: str,
    data: Path | None,
    folder: Path | None,
    first: str | None,
    only: tuple[str, ...],
    force: bool,
    dry_run: bool,
) -> None:
    """Run all stages from one file.

    RECIPE is a TOML file, or the name of one that comes with the package: imagenet, photographs, quickstart.

    A step whose settings and inputs have not changed is not run again; one that was interrupted goes on. An
    output that is made anew is first moved to NAME.previous (NAME.unfinished if it was interrupted).
    """
    from cli.progress import TerminalProgress
    from cli.tables import print_table
    from pipeline.recipe import plan_steps, read_recipe, select_steps
    from pipeline.report.table import results_table
    from pipeline.runner import evaluation_results, run_recipe

    chosen = read_recipe(recipe, data=data, folder=folder)
    steps = select_steps(plan_steps(chosen), first=first, only=only)
    run_recipe(chosen, steps, TerminalProgress(), announce, force=force, dry_run=dry_run)
    if not dry_run and (results := evaluation_results(chosen)):
        print_table(results_table(results))


def announce(decision: Decision) -> None:
    """Say what is done about a step, and why."""
    step = decision.step
    name = step.name if step.name.startswith(step.stage) else f"{step.stage} {step.name}"
    verb = {"skip": "skip", "resume": "go on with", "run": "run"}[decision.action]
    click.echo(f"{verb} {name}: {decision.why}", err=True)
