"""``compress-ssl embed``."""

from __future__ import annotations

from typing import Any

import click

from cli.groups import example
from cli.options import make_settings, settings_options
from pipeline.embed.settings import EmbedSettings


@click.command(
    "embed", epilog=example("compress-ssl embed photographs teacher.zarr --teacher torchvision/resnet50 --views 4")
)
@settings_options(EmbedSettings)
def command(**given: Any) -> None:
    """Run images through a teacher once, and keep the embeddings.

    The images are those of DATA; the embeddings of all their views go to STORE.
    """
    settings = make_settings(EmbedSettings, given)
    from cli.progress import TerminalProgress
    from pipeline.embed.run import embed

    store = embed(settings, TerminalProgress())
    for name in store.split_names:
        split = store[name]
        click.echo(
            f"{settings.store}: {name}, {len(split)} images, {len(split.views)} views of {split.feature_dim} features"
        )
