"""What ``export`` can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from compress_ssl.pipeline.common.settings import Settings, path_option, result_option, runtime_option


class ExportSettings(Settings):
    """Settings of exporting a network."""

    run: Annotated[
        str,
        path_option("A finished run's folder, or any other network: torchvision/NAME, NAME:PATH, ...", argument=True),
    ]
    out: Annotated[Path, path_option("Folder to write.", argument=True)]
    onnx: Annotated[bool, result_option("Write model.onnx too, checked against PyTorch on photographs.")] = True
    overwrite: Annotated[
        bool, runtime_option("Replace an earlier export in OUT; files that export did not write stay.")
    ] = False
