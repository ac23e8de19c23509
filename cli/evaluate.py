"""``compress-ssl evaluate``."""

from __future__ import annotations

import json
from typing import Any

import click

from cli.groups import example
from cli.options import make_settings, settings_options
from cli.output import json_option, print_result
from pipeline.evaluate.settings import EvaluateSettings


@click.command(
    "evaluate",
    epilog=example(
        "compress-ssl evaluate teacher.zarr",
        "compress-ssl evaluate runs/mobilenet --data photographs --labels-per-class 10",
    ),
)
@settings_options(EvaluateSettings)
@json_option
def command(as_json: bool, **given: Any) -> None:
    """Score a network's features.

    By nearest neighbour and weighted k-NN. MODEL is a store (of a teacher), a run's folder, a model.safetensors, torchvision/NAME or random/NAME.
    """
    settings = make_settings(EvaluateSettings, given)
    from cli.progress import TerminalProgress
    from cli.tables import print_table
    from pipeline.evaluate.run import evaluate
    from pipeline.report.table import results_table

    evaluation = evaluate(settings, TerminalProgress())

    def show() -> None:
        print_table(results_table([evaluation.path]))
        click.echo(evaluation.path)

    print_result({"path": str(evaluation.path), **json.loads(evaluation.path.read_bytes())}, as_json, show)
