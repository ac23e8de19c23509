"""``compress-ssl distill``."""

from typing import Any

import click

from compress_ssl.cli.groups import example
from compress_ssl.cli.options import make_settings, settings_options
from compress_ssl.cli.output import echo, json_option, print_result
from compress_ssl.pipeline.distill.settings import DistillSettings


@click.command(
    "distill", epilog=example("compress-ssl distill teacher.zarr photographs runs/mobilenet --student mobilenet_v2")
)
@settings_options(DistillSettings)
@json_option
def command(as_json: bool, **given: Any) -> None:
    """Train a student from a store of embeddings.

    The student sees the images of DATA and learns from their embeddings in STORE. It is written to the folder RUN.
    """
    settings = make_settings(DistillSettings, given)
    from compress_ssl.cli.progress import TerminalProgress
    from compress_ssl.pipeline.distill.run import distill
    from compress_ssl.pipeline.recipe.live_evaluation import live_evaluation

    model = distill(settings, TerminalProgress(), live_evaluation)
    print_result({"model": model}, as_json, lambda: echo(model))
