"""Settings of ``export``."""

from pathlib import Path
from typing import Annotated

from compress_ssl.pipeline.common.settings import Settings, path_option, result_option, runtime_option


class ExportSettings(Settings):
    """Settings of exporting a network."""

    run: Annotated[
        str,
        result_option("Folder of a finished run, or another network: torchvision/NAME, NAME:PATH, ...", argument=True),
    ]
    out: Annotated[Path, path_option("Folder to write.", argument=True)]
    onnx: Annotated[
        bool, result_option("Write model.onnx too, and compare its features with PyTorch's on photographs.")
    ] = True
    overwrite: Annotated[bool, runtime_option("Replace an earlier export in OUT; all other files stay.")] = False
