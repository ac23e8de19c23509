"""``compress-ssl estimate``: the cost of ``embed`` with the same options."""

from typing import Any

import click

from compress_ssl.cli.groups import example
from compress_ssl.cli.options import make_settings, settings_options
from compress_ssl.cli.output import echo, json_option, print_result
from compress_ssl.pipeline.embed.settings import EmbedSettings


@click.command(
    "estimate",
    epilog=example("compress-ssl estimate photographs teacher.zarr --teacher torchvision/resnet50 --views 4"),
)
@settings_options(EmbedSettings)
@json_option
def command(as_json: bool, **given: Any) -> None:
    """Estimate bytes, files, time and device-hours of embedding.

    Takes the options of embed. For timing, a few blocks are embedded and written to a temporary store beside STORE.
    Only the cached index of the images is kept.
    """
    print_estimate(make_settings(EmbedSettings, given), as_json)


def print_estimate(settings: EmbedSettings, as_json: bool) -> None:
    """Estimate the cost of embedding and print it."""
    from compress_ssl.cli.progress import TerminalProgress
    from compress_ssl.pipeline.common.memory import format_bytes
    from compress_ssl.pipeline.embed.estimate import estimate

    found = estimate(settings, TerminalProgress())
    left = "unknown for a URL" if found.disk_left is None else format_bytes(found.disk_left)
    verdict = {True: "", False: ": it does not fit", None: ""}[found.fits]
    shared = f" in {found.workers} processes" if found.workers > 1 else ""
    pays = found.pays_off_after_epochs
    lines = {
        "images": f"{found.images:,} with {found.views:,} views, {found.views_to_do:,} of them to embed",
        "store": f"{format_bytes(found.bytes)} in {found.files:,} files; {format_bytes(found.bytes_to_write)} to write",
        "disk free": f"{left}{verdict}",
        "time": f"{_duration(found.seconds)}{shared} on {found.device} (from {found.warm_up_images:,} images)",
        "work": f"{found.device_hours:.3g} {found.device_hours_are_of}-hours",
        "one epoch": f"{_duration(found.live_teacher_seconds_per_epoch)} of forward passes with a live teacher, or "
        f"{_duration(found.reading_seconds_per_epoch)} to read a view from the store",
        "pays off": "never: a live teacher is as fast as the disk" if pays is None else f"from epoch {pays} on",
    }
    shown = [f"{name:<10} {line}" for name, line in lines.items()]
    print_result(found.model_dump(mode="json"), as_json, lambda: echo(*shown))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
