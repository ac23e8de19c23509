"""``compress-ssl evaluate``: one command per evaluation."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import click

from compress_ssl.cli.groups import NearestGroup, example
from compress_ssl.cli.options import make_settings, only_given, settings_options
from compress_ssl.cli.output import echo, json_option, print_result, say
from compress_ssl.cli.progress import TerminalProgress
from compress_ssl.pipeline.evaluate.evaluations import DEFAULT_EVALUATION, EVALUATIONS
from compress_ssl.pipeline.evaluate.settings import EvaluateSettings
from compress_ssl.storage.typed_files import read_json

if TYPE_CHECKING:
    from pathlib import Path


EVERYTHING = "all"

SUMMARIES = {
    "knn": "Nearest neighbour and weighted k-NN: no training, seconds.",
    "linear": "Linear classifier on frozen features, stored or live.",
    "low-shot": "Linear classifier on 1 % and 10 % of the labels.",
    "cluster": "Cluster alignment: k-means, clusters mapped to classes.",
    "layers": "Linear classifier on every layer.",
    "voc-classify": "Classification on VOC, or on images in its layout.",
    "voc-detect": "Detection on VOC, or on images in its layout.",
}

EXAMPLES = {
    "knn": "compress-ssl evaluate knn runs/mobilenet --data photographs --labels-per-class 10",
    "linear": "compress-ssl evaluate linear runs/mobilenet --data photographs --lr-grid 0.01 --lr-grid 0.1",
    "low-shot": "compress-ssl evaluate low-shot teacher.zarr --percent 1",
    "cluster": "compress-ssl evaluate cluster runs/mobilenet --data photographs --pictures",
    "layers": "compress-ssl evaluate layers runs/alexnet --data places205",
    "voc-classify": "compress-ssl evaluate voc-classify runs/alexnet --data VOC2007",
    "voc-detect": "compress-ssl evaluate voc-detect runs/alexnet --data VOC2007",
}

baseline_option = click.option(
    "--baseline",
    "baselines",
    multiple=True,
    type=click.Choice(["random", "torchvision"]),
    help="Also score the same architecture, untrained or with torchvision's supervised weights. Repeatable.",
)


class Evaluations(NearestGroup):
    """Group of all evaluations: MODEL alone is nearest neighbour, --all runs all of them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert the name of the evaluation if it is missing."""
        wants_help = bool(args) and args[0] in ctx.help_option_names
        return super().parse_args(ctx, args if wants_help else self.named(args))

    def named(self, words: list[str]) -> list[str]:
        """Return arguments that start with the name of an evaluation, or with a misspelled one."""
        if "--all" in words:
            return [EVERYTHING, *(word for word in words if word != "--all")]
        if not words or difflib.get_close_matches(words[0], list(self.commands), n=1, cutoff=0.75):
            return words
        return [DEFAULT_EVALUATION, *words]


@click.group(
    "evaluate",
    cls=Evaluations,
    subcommand_metavar="[EVALUATION] MODEL [OPTIONS]",
    epilog=example(
        "compress-ssl evaluate teacher.zarr",
        "compress-ssl evaluate linear runs/mobilenet --data photographs --baseline random",
        "compress-ssl evaluate --all runs/mobilenet --data photographs",
    ),
)
def command() -> None:
    """Score a network's features.

    MODEL is a store (for its teacher), a run's folder, a checkpoint, torchvision/NAME, timm/NAME or random/NAME. The
    default evaluation is nearest neighbour (knn).
    """


def _add(name: str, settings: type[EvaluateSettings]) -> None:
    @command.command(name, help=SUMMARIES[name], epilog=example(EXAMPLES[name]))
    @settings_options(settings, without=settings.UNUSED)
    @baseline_option
    @json_option
    def evaluation(as_json: bool, baselines: tuple[str, ...], **given: Any) -> None:
        chosen = make_settings(settings, given)
        from compress_ssl.pipeline.evaluate.run import evaluate_with_baselines

        _show([each.path for each in evaluate_with_baselines(chosen, baselines, TerminalProgress())], as_json)


for _name, _evaluation in EVALUATIONS.items():
    _add(_name, _evaluation.settings)


@command.command(EVERYTHING, epilog=example("compress-ssl evaluate --all runs/mobilenet --data photographs"))
@settings_options(EvaluateSettings)
@json_option
def everything(as_json: bool, **given: Any) -> None:
    """Run every evaluation that MODEL and data allow."""
    make_settings(EvaluateSettings, given)
    from compress_ssl.pipeline.evaluate.run import evaluate_all

    results, left_out = evaluate_all(only_given(given), TerminalProgress())
    for name, reason in left_out.items():
        say(f"Skipped {name}: {reason}")
    _show(results, as_json)


def _show(results: list[Path], as_json: bool) -> None:
    from compress_ssl.cli.tables import print_table
    from compress_ssl.pipeline.evaluate.results_table import results_table

    def show() -> None:
        print_table(results_table(results))
        echo(*results)

    print_result([{"path": str(path), **read_json(path, dict[str, Any])} for path in results], as_json, show)
