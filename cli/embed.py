"""``compress-ssl embed``."""

from typing import Any

import click

from compress_ssl.cli.estimate import print_estimate
from compress_ssl.cli.groups import example
from compress_ssl.cli.options import make_settings, settings_options
from compress_ssl.cli.output import echo, json_option, print_result
from compress_ssl.pipeline.embed.settings import EmbedSettings


@click.command(
    "embed",
    epilog=example(
        "compress-ssl embed photographs teacher.zarr --teacher torchvision/resnet50 --views 4",
        "compress-ssl embed photographs teacher.zarr --teacher torchvision/resnet50 --add-views 4",
    ),
)
@settings_options(EmbedSettings)
@click.option(
    "--dry-run", is_flag=True, help="Only estimate bytes, files, time and device-hours, like 'compress-ssl estimate'."
)
@json_option
def command(dry_run: bool, as_json: bool, **given: Any) -> None:
    """Run images through a teacher once, and store the embeddings.

    The embeddings of all views of the images of DATA are written to STORE. --add-views and --add-images extend a
    complete store: existing embeddings are kept, new ones are added.
    """
    settings = make_settings(EmbedSettings, given)
    if dry_run:
        print_estimate(settings, as_json)
        return
    from compress_ssl.cli.progress import TerminalProgress
    from compress_ssl.pipeline.embed.run import embed
    from compress_ssl.storage import Status, describe

    store = embed(settings, TerminalProgress())

    def show() -> None:
        for name in store.split_names:
            split = store[name]
            done = sum(map(split.committed_blocks, range(len(split.views))))
            blocks = split.block_count * len(split.views)
            part = "" if done == blocks else f"; {done:,} of {blocks:,} blocks done"
            images = int((split.samples.status != Status.PADDING).sum())
            echo(
                f"{store.path}: {name}, {images} images, {len(split.views)} views of {split.feature_dim} features{part}"
            )

    print_result(describe(store), as_json, show)
