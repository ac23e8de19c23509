"""What ``export`` can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from compress_ssl.pipeline.common.settings import Settings, argument


class ExportSettings(Settings):
    """Settings of exporting a network."""

    run: Annotated[str, argument("A finished run's folder, or any other network: torchvision/NAME, NAME:PATH, ...")]
    out: Annotated[Path, argument("Folder to write.")]
    onnx: Annotated[bool, Field(description="Write model.onnx too, checked against PyTorch on photographs.")] = True
    overwrite: Annotated[
        bool, Field(description="Replace an earlier export in OUT; files that export did not write stay.")
    ] = False
