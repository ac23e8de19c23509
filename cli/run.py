"""``compress-ssl run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from compress_ssl.cli.groups import example
from compress_ssl.cli.options import LOCAL_PATH
from compress_ssl.cli.steps import run_options, run_steps
from compress_ssl.pipeline.recipe.file import read_recipe, recipe_names
from compress_ssl.pipeline.recipe.steps import plan_steps, select_steps

if TYPE_CHECKING:
    from collections.abc import Callable


RUNNABLE = [name for name in recipe_names() if not read_recipe(name).has_sweep]
HELP = f"""Run all stages from one file.

RECIPE is a TOML file, or a recipe of the package: {", ".join(RUNNABLE)}.

A step is skipped if its settings and inputs have not changed, and resumed if it was interrupted. An output that is
replaced is first moved to NAME.previous (NAME.unfinished if it was interrupted).
"""


def _recipes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Return a shell's completions of RECIPE: names of recipes, and files."""
    names = [CompletionItem(name) for name in recipe_names() if name.startswith(incomplete)]
    return [*names, CompletionItem(incomplete, type="file")]


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add RECIPE, ``--data``, ``--folder`` and ``--from`` to a command."""
    for option in (
        click.option("--from", "first", metavar="STEP", help="Start at this step or stage."),
        click.option("--folder", type=LOCAL_PATH, help="Folder to write to instead of the recipe's."),
        click.option("--data", type=LOCAL_PATH, help="Dataset to use instead of the recipe's."),
        click.argument("recipe", shell_complete=_recipes),
    ):
        command = option(command)
    return command


@click.command("run", help=HELP, epilog=example("compress-ssl run mine.toml --from distill"))
@recipe_options
@click.option("--only", multiple=True, metavar="STEP", help="Run only this step or stage. Repeatable.")
@run_options
def command(
    recipe: str, data: Path | None, folder: Path | None, first: str | None, only: tuple[str, ...], **how: Any
) -> None:
    """Read a recipe, choose steps, run them."""
    chosen = read_recipe(recipe, data=data, folder=folder)
    run_steps(chosen, select_steps(plan_steps(chosen), first=first, only=only), **how)
