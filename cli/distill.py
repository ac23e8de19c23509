"""``compress-ssl distill``."""

from __future__ import annotations

from typing import Any

import click

from cli.options import make_settings, settings_options
from pipeline.distill.settings import DistillSettings


@click.command("distill")
@settings_options(DistillSettings)
def command(**given: Any) -> None:
    r"""Train a student from the embeddings in STORE on the images of DATA; write it to the folder RUN.

    \b
      compress-ssl distill teacher.zarr photographs runs/mobilenet --student mobilenet_v2
    """
    settings = make_settings(DistillSettings, given)
    from cli.progress import TerminalProgress
    from pipeline.distill.run import distill

    click.echo(distill(settings, TerminalProgress()))
