"""Running a recipe's steps and printing the results; shared by ``run``, ``chain``, ``quickstart`` and ``sweep``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from compress_ssl.cli.output import echo, json_option, print_result, say
from compress_ssl.storage.typed_files import read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from compress_ssl.pipeline.recipe.file import Recipe
    from compress_ssl.pipeline.recipe.run import Plan
    from compress_ssl.pipeline.recipe.steps import Step
    from compress_ssl.pipeline.recipe.up_to_date import Decision


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--force``, ``--dry-run`` and ``--json`` to a command."""
    for option in (
        json_option,
        click.option("--dry-run", is_flag=True, help="Print what would be run and why, and stop."),
        click.option("--force", is_flag=True, help="Run the steps again even if they are up to date."),
    ):
        command = option(command)
    return command


def run_steps(
    recipe: Recipe, steps: list[Step], *, as_json: bool, force: bool = False, dry_run: bool = False, title: str = ""
) -> None:
    """Run the steps that are out of date, and print the table of all results under ``title``."""
    from compress_ssl.cli.progress import TerminalProgress
    from compress_ssl.cli.tables import print_table
    from compress_ssl.pipeline.evaluate.results_table import results_table
    from compress_ssl.pipeline.recipe.run import evaluation_results, plan_run, run_recipe

    plan = plan_run(recipe, steps, force=force)
    if dry_run:
        print_plan(plan, as_json)
        return
    say(summary(plan.decisions))
    done: list[dict[str, str]] = []

    def announce(decision: Decision) -> None:
        done.append(_record(decision))
        say(sentence(decision))

    run_recipe(plan, TerminalProgress(), announce)
    results, outdated = evaluation_results(recipe)
    if outdated:
        say(f"Out of date, and not in the table: {', '.join(outdated)}; run without --only.")

    def show() -> None:
        if results:
            print_table(results_table(results), title or None)

    records = [read_json(path, dict[str, Any]) for path in results] if as_json else []
    print_result({"steps": done, "results": records}, as_json, show)


def print_plan(plan: Plan, as_json: bool) -> None:
    """Print the expected action for each step, and the reason."""
    planned = [_record(decision) for decision in plan.decisions]
    print_result({"steps": planned}, as_json, lambda: echo(*map(sentence, plan.decisions)))


def summary(decisions: Sequence[Decision]) -> str:
    """Return one line: the steps to run, and the number of steps up to date."""
    todo = [_named(decision.step) for decision in decisions if decision.action != "skip"]
    skipped = len(decisions) - len(todo)
    up_to_date = f"{skipped} of {len(decisions)} steps up to date"
    if not todo:
        return f"Nothing to do: {up_to_date}."
    return f"To do: {', '.join(todo)}" + (f"; {up_to_date}." if skipped else ".")


def sentence(decision: Decision) -> str:
    """Return the action for a step, and the reason."""
    return f"{decision.action} {_named(decision.step)}: {decision.why}"


def _named(step: Step) -> str:
    return step.name if step.name.startswith(step.stage) else f"{step.stage} {step.name}"


def _record(decision: Decision) -> dict[str, str]:
    step = {"step": decision.step.name, "stage": decision.step.stage}
    return {**step, "action": decision.action, "why": decision.why, "output": str(decision.step.output)}
