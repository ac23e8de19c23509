"""``compress-ssl pretrain``."""

from __future__ import annotations

from typing import Any

import click

from cli.options import make_settings, settings_options
from pipeline.pretrain.settings import PretrainSettings


@click.command("pretrain")
@settings_options(PretrainSettings)
def command(**given: Any) -> None:
    r"""Train a network on the images of DATA without labels; write it to the folder RUN.

    For a teacher where none can be had, and for students trained from scratch.

    \b
      compress-ssl pretrain photographs runs/teacher --arch resnet18 --epochs 100
    """
    settings = make_settings(PretrainSettings, given)
    from cli.progress import TerminalProgress
    from pipeline.pretrain.run import pretrain

    click.echo(pretrain(settings, TerminalProgress()))
