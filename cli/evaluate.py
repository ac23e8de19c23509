"""``compress-ssl evaluate``."""

from __future__ import annotations

from typing import Any

import click

from cli.options import make_settings, settings_options
from pipeline.evaluate.settings import EvaluateSettings


@click.command("evaluate")
@settings_options(EvaluateSettings)
def command(**given: Any) -> None:
    r"""Score the features of MODEL by nearest neighbour.

    \b
      compress-ssl evaluate teacher.zarr
      compress-ssl evaluate runs/mobilenet --data photographs --labels-per-class 10
    """
    settings = make_settings(EvaluateSettings, given)
    from cli.progress import TerminalProgress
    from cli.tables import print_table
    from pipeline.evaluate.run import evaluate
    from pipeline.report.table import results_table

    evaluation = evaluate(settings, TerminalProgress())
    print_table(results_table([evaluation.path]))
    click.echo(evaluation.path)
