"""``compress-ssl chain``: several stages in one command, without a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress_ssl.cli.groups import NearestGroup, example
from compress_ssl.cli.options import LOCAL_PATH, make_settings, only_given, settings_options
from compress_ssl.cli.steps import run_options, run_steps
from compress_ssl.pipeline.common.settings import Settings, StageSettings
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.evaluate.evaluations import DEFAULT_EVALUATION, EVALUATIONS
from compress_ssl.pipeline.pretrain.settings import PretrainSettings

if TYPE_CHECKING:
    from collections.abc import Callable

FROM_THE_CHAIN = ("data", "run", "output", "resume", "overwrite", "index_folder", "part", "add_views", "add_images")
"""Settings that the chain decides by its folder and its records, as a recipe does."""

Stage = tuple[str, dict[str, Any]]


class StageCommand(click.Command):
    """Command of one stage, which recognizes misplaced options of the chain."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options; for an option of the chain, name its place in the error."""
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
@click.option("--data", type=LOCAL_PATH, help="Dataset with one sub-folder per split.  [required]")
@click.option("--folder", type=LOCAL_PATH, help="Folder to write to.  [required]")
@settings_options(StageSettings)
@run_options
def command(**given: Any) -> None:
    """Run several stages in one command.

    The output of each stage is the input of the next: the teacher is the network pre-trained before it, students learn
    from the store, and the store and all students are evaluated. A chain is a recipe without a file: stages that are up
    to date are skipped, interrupted ones are resumed. Options before the first stage apply to all stages.
    """


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
    """Run the recipe that is equivalent to the chain."""
    # Not `required`, so that a stage's --help needs neither.
    if data is None or folder is None:
        raise click.UsageError(f"Missing option '--{'folder' if data else 'data'}', before the first stage.")
    from compress_ssl.pipeline.recipe.chain import chain_recipe
    from compress_ssl.pipeline.recipe.steps import plan_steps

    make_settings(StageSettings, shared)
    recipe = chain_recipe(folder, data, stages, only_given(shared))
    run_steps(recipe, plan_steps(recipe), force=force, dry_run=dry_run, as_json=as_json)


def _name_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option("--name", help=f"Name of the network and of its folder.  [default: {default}]")


def _stage(name: str, model: type[Settings], given: dict[str, Any]) -> Stage:
    """Check the options of a stage as its own command does, except those that the chain decides later."""
    table = only_given(given)
    to_come = {field: "." for field, info in model.model_fields.items() if info.is_required()}
    make_settings(model, {**to_come, **{key: table[key] for key in table if key in model.model_fields}})
    return name, table


@command.command("pretrain", cls=StageCommand)
@settings_options(PretrainSettings, without=FROM_THE_CHAIN)
@_name_option("its architecture")
def pretrain(**given: Any) -> Stage:
    """Train a network from scratch."""
    return _stage("pretrain", PretrainSettings, given)


@command.command("embed", cls=StageCommand)
@settings_options(EmbedSettings, without=(*FROM_THE_CHAIN, "store"), optional=("teacher",))
def embed(**given: Any) -> Stage:
    """Run images through a teacher once.

    The teacher is the network pre-trained earlier in the chain, unless --teacher names another.
    """
    return _stage("embed", EmbedSettings, given)


@command.command("distill", cls=StageCommand)
@settings_options(DistillSettings, without=FROM_THE_CHAIN, optional=("store",))
@_name_option("STUDENT-OBJECTIVE")
def distill(**given: Any) -> Stage:
    """Train a student from the store.

    The store is the one embedded earlier in the chain, unless --store names another.
    """
    return _stage("distill", DistillSettings, given)


@command.command("evaluate", cls=StageCommand)
@click.option(
    "--model",
    "models",
    multiple=True,
    help="A name in this chain ('embed' is its store), or any MODEL that evaluate accepts. Repeatable.  "
    "[default: the store and all students]",
)
@click.option(
    "--also",
    multiple=True,
    type=click.Choice([name for name in EVALUATIONS if name != DEFAULT_EVALUATION]),
    help="Another evaluation, with its default settings. Repeatable.",
)
@settings_options(EVALUATIONS[DEFAULT_EVALUATION].settings, without=(*FROM_THE_CHAIN, "model"))
def evaluate(**given: Any) -> Stage:
    """Score the store and all students, by nearest neighbour and by each --also."""
    return _stage("evaluate", EVALUATIONS[DEFAULT_EVALUATION].settings, given)
