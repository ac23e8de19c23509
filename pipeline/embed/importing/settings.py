"""What ``store import`` can be told of embeddings that another program made."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from compress_ssl.pipeline.common.settings import LabelFile, Settings, StoreLocation, argument
from compress_ssl.storage.places.names import first_outside


class SplitFile(Settings):
    """A file that belongs to a split of the store, whose images are in a folder of the data set."""

    split: str
    folder: str
    file: Path

    def __str__(self) -> str:
        """Write it as it is given on the command line."""
        return f"{self.split}{'' if self.folder == self.split else f':{self.folder}'}={self.file}"


def _parse_file(value: Any) -> Any:
    if not isinstance(value, str | Path):
        return value
    match = re.fullmatch(r"(?:([A-Za-z0-9_-]+)(?::([^=]+))?=)?(.+)", str(value))
    if not match:
        raise ValueError(f"'{value}' must be FILE, SPLIT=FILE or SPLIT:FOLDER=FILE.")
    split, folder, file = match.groups()
    split = split or "train"
    if first_outside([folder or split]) is not None:
        raise ValueError(f"'{folder}' leads out of the data set; give the folder above both as --data.")
    return SplitFile(split=split, folder=folder or split, file=Path(file))


File = Annotated[SplitFile, BeforeValidator(_parse_file, json_schema_input_type=str)]


class ImportSettings(Settings):
    """Settings of importing. The sizes are those of the published code's evaluation view."""

    files: Annotated[
        tuple[File, ...],
        argument("[SPLIT[:FOLDER]=]FILE with a row an image: torch.save, .npy, HDF5 or zarr; of train."),
    ]
    store: Annotated[
        StoreLocation, argument("Embedding store to write: a folder, s3://BUCKET/NAME or gs://BUCKET/NAME.")
    ]
    data: Annotated[Path, Field(description="Data set of the images; names, sizes and hashes are taken from it.")]
    teacher: Annotated[str, Field(description="Name of the network that made the embeddings, for tables and stores.")]
    paths: Annotated[
        tuple[File, ...],
        Field(
            description="[SPLIT=]FILE: text file with the image of each row, a path a line, relative to the data set or to the "
            "split. The published code's files need none: their rows are in ImageFolder's order. Repeatable."
        ),
    ] = ()
    array: Annotated[
        str | None, Field(description="Name of the matrix in an HDF5 file or a zarr group, where there are several.")
    ] = None
    size: Annotated[int, Field(ge=8, description="Side of the view that the network saw, in pixels.")] = 224
    resize: Annotated[int, Field(ge=8, description="Short side before the centre crop, in pixels.")] = 256
    interpolation: Annotated[Literal["bilinear", "bicubic"], Field(description="Of the resizing.")] = "bilinear"
    normalise: Annotated[
        bool, Field(description="Write L2-normalised embeddings, for lengths that float16 cannot hold.")
    ] = False
    labels: LabelFile = None
    on_bad_image: Annotated[
        Literal["stop", "skip"],
        Field(description="An image that cannot be decoded ends the import, or is recorded and left out."),
    ] = "stop"
    index_folder: Annotated[
        Path | None,
        Field(description="Folder that keeps the index of the images; 'index' beside the store unless given."),
    ] = None
    block_rows: Annotated[int | None, Field(ge=1, description="Images of a block; about 16 MiB unless given.")] = None
    threads: Annotated[
        int | None, Field(ge=1, description="CPU threads for looking at the images; all unless given.")
    ] = None
    overwrite: Annotated[bool, Field(description="Replace the store if it exists.")] = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.size > self.resize:
            raise ValueError(
                f"--size {self.size} is larger than --resize {self.resize}; the crop must fit the resized image."
            )
        for files in (self.files, self.paths):
            if len({file.split for file in files}) < len(files):
                raise ValueError("two files are of one split; write SPLIT=FILE.")
        unknown = {file.split for file in self.paths} - {file.split for file in self.files}
        if unknown:
            raise ValueError(f"--paths names the images of split {min(unknown)}, of which no FILE is given.")
        return self

    @property
    def thread_count(self) -> int:
        """Threads to use: those asked for, else the cores that this process may use."""
        return self.threads or len(os.sched_getaffinity(0))
