"""``compress-ssl chain``: stages one after the other, without a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress_ssl.cli.groups import NearestGroup, example
from compress_ssl.cli.options import make_settings, only_given, settings_options
from compress_ssl.cli.steps import run_options, run_steps
from compress_ssl.pipeline.common.settings import Settings, StageSettings
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.evaluate.evaluations import DEFAULT_EVALUATION, EVALUATIONS
from compress_ssl.pipeline.pretrain.settings import PretrainSettings

if TYPE_CHECKING:
    from collections.abc import Callable

FROM_THE_CHAIN = ("data", "run", "output", "resume", "overwrite", "index_folder", "part", "add_views", "add_images")
"""Settings that a chain's folder and its record of what was done decide, as a recipe's do; its store is made whole."""

Stage = tuple[str, dict[str, Any]]


class StageCommand(click.Command):
    """A stage of a chain; knows which options are the chain's own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Answer an option of the chain that comes too late with where it goes."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if any(error.option_name in parameter.opts for parameter in command.params):
                raise click.UsageError(
                    f"{error.option_name} is for the whole chain; give it before the first stage.", ctx
                ) from error
            raise


@click.group(
    "chain",
    cls=NearestGroup,
    chain=True,
    subcommand_metavar="STAGE [OPTIONS] [STAGE [OPTIONS]]...",
    epilog=example(
        "compress-ssl chain --data photographs --folder runs/mine \\",
        "  pretrain --arch resnet18 --name teacher embed --views 4 \\",
        "  distill --student mobilenet_v2 distill --student alexnet --objective compress-1q \\",
        "  evaluate --labels-per-class 10",
    ),
)
@click.option("--data", type=click.Path(path_type=Path), help="Data set with a sub-folder a split.  [required]")
@click.option("--folder", type=click.Path(path_type=Path), help="Folder to write to.  [required]")
@settings_options(StageSettings)
@run_options
def command(**given: Any) -> None:
    """Run stages one after the other.

    Each stage takes what the one before it made: a teacher is the network pre-trained before it, a student learns
    from the store, and all of it is evaluated. It is a recipe without a file: what is up to date is not run again,
    and what was interrupted goes on. Options given before the first stage are for all of them.
    """
    del given  # the stages are parsed first; then `carry_out` gets it all


@command.result_callback()
def carry_out(
    stages: list[Stage],
    data: Path | None,
    folder: Path | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
    **shared: Any,
) -> None:
    """Run the recipe that the chain amounts to."""
    # Not `required`, so that a stage's --help needs neither.
    if data is None or folder is None:
        raise click.UsageError(f"Missing option '--{'folder' if data else 'data'}', before the first stage.")
    from compress_ssl.pipeline.recipe.chain import chain_recipe
    from compress_ssl.pipeline.recipe.steps import plan_steps

    make_settings(StageSettings, shared)
    recipe = chain_recipe(folder, data, stages, only_given(shared))
    run_steps(recipe, plan_steps(recipe), force=force, dry_run=dry_run, as_json=as_json)


def _name_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option("--name", help=f"What it is called; its folder has this name.  [default: {default}]")


def _stage(name: str, model: type[Settings], given: dict[str, Any]) -> Stage:
    """What was given to a stage, checked as its own command does; what the chain decides is not known yet."""
    table = only_given(given)
    to_come = {field: "." for field, info in model.model_fields.items() if info.is_required()}
    make_settings(model, {**to_come, **{key: table[key] for key in table if key in model.model_fields}})
    return name, table


@command.command("pretrain", cls=StageCommand)
@settings_options(PretrainSettings, without=FROM_THE_CHAIN)
@_name_option("its architecture")
def pretrain(**given: Any) -> Stage:
    """Train a network on images without labels."""
    return _stage("pretrain", PretrainSettings, given)


@command.command("embed", cls=StageCommand)
@settings_options(EmbedSettings, without=(*FROM_THE_CHAIN, "store"), optional=("teacher",))
def embed(**given: Any) -> Stage:
    """Run images through a teacher once.

    The teacher is the network pre-trained before it, unless --teacher names another.
    """
    return _stage("embed", EmbedSettings, given)


@command.command("distill", cls=StageCommand)
@settings_options(DistillSettings, without=FROM_THE_CHAIN, optional=("store",))
@_name_option("STUDENT-OBJECTIVE")
def distill(**given: Any) -> Stage:
    """Train a student from the store.

    The store is the one embedded before it, unless --store names another.
    """
    return _stage("distill", DistillSettings, given)


@command.command("evaluate", cls=StageCommand)
@click.option(
    "--model",
    "models",
    multiple=True,
    help="A name in this chain ('embed' is its store), or what the command of this name takes. Repeatable.  "
    "[default: the store and all students]",
)
@click.option(
    "--also",
    multiple=True,
    type=click.Choice([name for name in EVALUATIONS if name != DEFAULT_EVALUATION]),
    help="Another evaluation, with its defaults; a recipe can set its own. Repeatable.",
)
@settings_options(EVALUATIONS[DEFAULT_EVALUATION].settings, without=(*FROM_THE_CHAIN, "model"))
def evaluate(**given: Any) -> Stage:
    """Score the store and all students: nearest neighbour, and what else is asked for."""
    return _stage("evaluate", EVALUATIONS[DEFAULT_EVALUATION].settings, given)
