"""``compress-ssl pack``."""

from typing import Any

import click

from compress_ssl.cli.groups import example
from compress_ssl.cli.options import make_settings, settings_options
from compress_ssl.cli.output import echo, json_option, print_result
from compress_ssl.pipeline.images.pack_settings import PackSettings


@click.command("pack", epilog=example("compress-ssl pack photographs photographs.h5 --split train --split val"))
@settings_options(PackSettings)
@json_option
def command(as_json: bool, **given: Any) -> None:
    """Pack a dataset into one HDF5 file, fast to copy and to read.

    The encoded images of DATA are written to FILE unchanged, with names and labels. Every command accepts FILE as DATA,
    with stores made from the folder too.
    """
    settings = make_settings(PackSettings, given)
    from compress_ssl.cli.progress import TerminalProgress
    from compress_ssl.pipeline.images.pack_writer import pack

    images = pack(settings, TerminalProgress())
    size = settings.file.stat().st_size

    def show() -> None:
        splits = ", ".join(f"{split} {count:,}" for split, count in images.items())
        echo(f"{settings.file}: {splits} images, {size / 2**20:,.1f} MiB")

    print_result({"file": str(settings.file), "bytes": size, "images": images}, as_json, show)
