"""Settings of ``pack``."""

from pathlib import Path
from typing import Annotated

from pydantic import field_validator

from compress_ssl.pipeline.common.settings import LabelFile, Settings, path_option, result_option, runtime_option


class PackSettings(Settings):
    """Settings of packing a dataset into one file."""

    data: Annotated[
        Path, path_option("Dataset: a folder with one sub-folder per split, or whatever embed reads.", argument=True)
    ]
    file: Annotated[Path, path_option("HDF5 file to write.", argument=True)]
    split: Annotated[
        tuple[str, ...], result_option("Split to pack; '.', alone, for the dataset itself. Repeatable.", min_length=1)
    ] = ("train", "val")
    labels: LabelFile = None
    overwrite: Annotated[bool, runtime_option("Replace FILE if it exists.")] = False

    @field_validator("split")
    @classmethod
    def _distinct(cls, splits: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(splits)) < len(splits):
            raise ValueError("a split is named twice; name each once.")
        if "." in splits and len(splits) > 1:
            raise ValueError("'.' is the whole dataset; pack it alone, or name the other splits only.")
        for split in splits:
            if outer := next((other for other in splits if split.startswith(f"{other}/")), None):
                raise ValueError(f"'{split}' is in '{outer}'; pack one of them.")
        return splits
