"""``compress-ssl quickstart``."""

from __future__ import annotations

from pathlib import Path

import click

from compress_ssl.cli.output import json_option, say
from compress_ssl.cli.steps import run_steps


@click.command("quickstart")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("runs/quickstart"),
    show_default=True,
    help="Where to write.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Draws whatever is random.")
@json_option
def command(folder: Path, seed: int, as_json: bool) -> None:
    """See it all in a few minutes, on scanned digits.

    A teacher, its embeddings, two students, a table. The images are scikit-learn's digits. Interrupted, the same
    command goes on; finished, it prints the table again.
    """
    from compress_ssl.pipeline.recipe.file import read_recipe
    from compress_ssl.pipeline.recipe.quickstart import write_digits
    from compress_ssl.pipeline.recipe.steps import plan_steps

    write_digits(folder / "digits")
    recipe = read_recipe("quickstart", folder=folder, data=folder / "digits", settings={"seed": seed})
    title = "Nearest-neighbour accuracy on 500 digits, percent"
    run_steps(recipe, plan_steps(recipe), as_json=as_json, title=title)
    say(f"Everything is in {folder}; the recipe is pipeline/recipes/quickstart.toml.")
