"""``compress-ssl quickstart``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("quickstart")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("runs/quickstart"),
    show_default=True,
    help="Where to write.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Draws whatever is random.")
def command(folder: Path, seed: int) -> None:
    """See it all in a few minutes, on scanned digits.

    A teacher, its embeddings, two students, a table. The images are scikit-learn's digits. Interrupted, the same
    command goes on; finished, it prints the table again.
    """
    from cli.progress import TerminalProgress
    from cli.run import announce
    from cli.tables import print_table
    from pipeline.quickstart import write_digits
    from pipeline.recipe import plan_steps, read_recipe
    from pipeline.report.table import results_table
    from pipeline.runner import evaluation_results, run_recipe

    write_digits(folder / "digits")
    recipe = read_recipe("quickstart", folder=folder, data=folder / "digits", settings={"seed": seed})
    run_recipe(recipe, plan_steps(recipe), TerminalProgress(), announce)
    print_table(results_table(evaluation_results(recipe)), "Nearest-neighbour accuracy on 500 digits, percent")
    click.echo(f"Everything is in {folder}; the recipe is pipeline/recipes/quickstart.toml.")
