"""``compress-ssl pretrain``."""

from typing import Any

import click

from compress_ssl.cli.groups import example
from compress_ssl.cli.options import make_settings, settings_options
from compress_ssl.cli.output import echo, json_option, print_result
from compress_ssl.pipeline.pretrain.settings import PretrainSettings


@click.command("pretrain", epilog=example("compress-ssl pretrain photographs runs/teacher --arch resnet18 --epochs 90"))
@settings_options(PretrainSettings)
@json_option
def command(as_json: bool, **given: Any) -> None:
    """Train a network from scratch: SimCLR, MoCo v2 or supervised.

    The network is trained on the images of DATA and written to the folder RUN: a teacher if none is published, or a
    baseline for students.
    """
    settings = make_settings(PretrainSettings, given)
    from compress_ssl.cli.progress import TerminalProgress
    from compress_ssl.pipeline.pretrain.run import pretrain
    from compress_ssl.pipeline.recipe.live_evaluation import live_evaluation

    model = pretrain(settings, TerminalProgress(), live_evaluation)
    print_result({"model": model}, as_json, lambda: echo(model))
