"""``compress-ssl quickstart``."""

from pathlib import Path

import click

from compress_ssl.cli.options import LOCAL_PATH
from compress_ssl.cli.output import json_option, say
from compress_ssl.cli.steps import run_steps


@click.command("quickstart")
@click.option(
    "--folder", type=LOCAL_PATH, default=Path("runs/quickstart"), show_default=True, help="Folder to write to."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of all randomness.")
@json_option
def command(folder: Path, seed: int, as_json: bool) -> None:
    """Run all stages in a few minutes, on scanned digits.

    Trains a teacher, stores its embeddings, trains two students and prints a table of results, on scikit-learn's
    digits. The same command resumes an interrupted run, or prints the table of a finished one.
    """
    from compress_ssl.pipeline.recipe.file import read_recipe
    from compress_ssl.pipeline.recipe.quickstart import write_digits
    from compress_ssl.pipeline.recipe.steps import plan_steps

    write_digits(folder / "digits")
    recipe = read_recipe("quickstart", folder=folder, data=folder / "digits", settings={"seed": seed})
    title = "Nearest-neighbour accuracy on 500 digits, percent"
    run_steps(recipe, plan_steps(recipe), as_json=as_json, title=title)
    say(f"Everything is in {folder}; the recipe is pipeline/recipe/recipes/quickstart.toml.")
