"""``compress-ssl estimate``: what ``embed`` with the same words will take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from compress_ssl.cli.groups import example
from compress_ssl.cli.options import make_settings, settings_options
from compress_ssl.cli.output import json_option, print_result
from compress_ssl.pipeline.embed.settings import EmbedSettings

if TYPE_CHECKING:
    from compress_ssl.pipeline.embed.estimate.run import Estimate


@click.command(
    "estimate",
    epilog=example("compress-ssl estimate photographs teacher.zarr --teacher torchvision/resnet50 --views 4"),
)
@settings_options(EmbedSettings)
@json_option
def command(as_json: bool, **given: Any) -> None:
    """Foretell bytes, files, time and device-hours of embedding.

    Takes what embed takes, and writes nothing but the index of the images. A few blocks are embedded and written beside
    STORE, and removed.
    """
    print_estimate(make_settings(EmbedSettings, given), as_json)


def print_estimate(settings: EmbedSettings, as_json: bool) -> None:
    """Make the estimate and print it."""
    from compress_ssl.cli.progress import TerminalProgress
    from compress_ssl.pipeline.embed.estimate.run import estimate

    found = estimate(settings, TerminalProgress())
    print_result(found.model_dump(mode="json"), as_json, lambda: click.echo("\n".join(_lines(found))))


def _lines(found: Estimate) -> list[str]:
    from compress_ssl.pipeline.common.memory import format_bytes

    left = "not known at a URL" if found.disk_left is None else format_bytes(found.disk_left)
    verdict = {True: "", False: ": it does not fit", None: ""}[found.fits]
    shared = f" in {found.workers} processes" if found.workers > 1 else ""
    pays = found.pays_off_after_epochs
    lines = {
        "images": f"{found.images:,}, {found.views:,} views, {found.views_to_do:,} of them to do",
        "store": f"{format_bytes(found.bytes)} in {found.files:,} files, {format_bytes(found.bytes_to_write)} of them to write",
        "disk left": f"{left}{verdict}",
        "time": f"{_duration(found.seconds)}{shared} on {found.device} (from {found.warm_up_images:,} images)",
        "work": f"{found.device_hours:.3g} {found.device_hours_are_of}-hours",
        "one epoch": f"{_duration(found.live_teacher_seconds_an_epoch)} of a live teacher's forward passes, or "
        f"{_duration(found.reading_seconds_an_epoch)} of reading a view",
        "pays off": "never: a live teacher is as quick as the disk" if pays is None else f"from epoch {pays} on",
    }
    return [f"{name:<10} {text}" for name, text in lines.items()]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
