"""``compress-ssl export``."""

from typing import Any

import click

from compress_ssl.cli.groups import example
from compress_ssl.cli.options import make_settings, settings_options
from compress_ssl.cli.output import echo, json_option, print_result
from compress_ssl.pipeline.export.settings import ExportSettings


@click.command(
    "export",
    epilog=example(
        "compress-ssl export runs/mobilenet mobilenet-for-others",
        "compress-ssl export torchvision/resnet50 resnet50 --no-onnx",
    ),
)
@settings_options(ExportSettings)
@json_option
def command(as_json: bool, **given: Any) -> None:
    """Export a network for others: weights, model card, ONNX.

    Writes to OUT: model.safetensors with the keys of torchvision or timm, a model card README.md with the code that
    loads it, model.onnx, and export.json with hashes. Every command that takes a network accepts OUT.
    """
    settings = make_settings(ExportSettings, given)
    from compress_ssl.pipeline.common.memory import format_bytes
    from compress_ssl.pipeline.export.run import export

    exported = export(settings)
    files = {name: {"path": str(settings.out / name), **facts} for name, facts in exported["files"].items()}

    def show() -> None:
        for file in files.values():
            echo(f"{file['path']}: {format_bytes(file['bytes'])}, SHA-256 {file['sha256']}")
        if exported["onnx"] is not None:
            difference, images = exported["onnx"]["relative_difference"], exported["onnx"]["images"]
            largest = f"{difference:.1e} of the largest feature ({images} photographs)"
            echo(f"ONNX differs from PyTorch by at most {largest}.")

    print_result({"folder": str(settings.out), **exported, "files": files}, as_json, show)
