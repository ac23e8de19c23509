"""``compress-ssl embed``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cli.groups import example
from cli.options import make_settings, settings_options
from cli.output import json_option, print_result
from pipeline.embed.settings import EmbedSettings

if TYPE_CHECKING:
    from storage import EmbeddingStore


@click.command(
    "embed", epilog=example("compress-ssl embed photographs teacher.zarr --teacher torchvision/resnet50 --views 4")
)
@settings_options(EmbedSettings)
@json_option
def command(as_json: bool, **given: Any) -> None:
    """Run images through a teacher once, and keep the embeddings.

    The images are those of DATA; the embeddings of all their views go to STORE.
    """
    settings = make_settings(EmbedSettings, given)
    from cli.progress import TerminalProgress
    from pipeline.embed.run import embed
    from storage import describe

    store = embed(settings, TerminalProgress())
    print_result(describe(store), as_json, lambda: _show(store))


def _show(store: EmbeddingStore) -> None:
    for name in store.split_names:
        split = store[name]
        click.echo(
            f"{store.path}: {name}, {len(split)} images, {len(split.views)} views of {split.feature_dim} features"
        )
