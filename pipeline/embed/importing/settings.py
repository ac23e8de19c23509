"""Settings of ``store import`` for embeddings of other programs."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, model_validator

from compress_ssl.pipeline.common.settings import (
    LabelFile,
    Settings,
    StoreLocation,
    path_option,
    result_option,
    runtime_option,
)
from compress_ssl.storage.attributes import MAX_PIXELS
from compress_ssl.storage.places.names import first_outside


class SplitFile(Settings):
    """A file of one split, whose images are in a folder of the dataset."""

    split: str
    folder: str
    file: Path

    def __str__(self) -> str:
        """Format as on the command line."""
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
        raise ValueError(f"'{folder}' leads out of the dataset; give the folder above both as --data.")
    return SplitFile(split=split, folder=folder or split, file=Path(file))


File = Annotated[SplitFile, BeforeValidator(_parse_file, json_schema_input_type=str)]


class ImportSettings(Settings):
    """Settings of ``store import``; the default sizes are those of the published code's evaluation view."""

    files: Annotated[
        tuple[File, ...],
        result_option(
            "[SPLIT[:FOLDER]=]FILE with one row per image: torch.save, .npy, HDF5 or zarr; SPLIT defaults to train.",
            argument=True,
        ),
    ]
    store: Annotated[
        StoreLocation,
        path_option("Embedding store to write: a folder, s3://BUCKET/NAME or gs://BUCKET/NAME.", argument=True),
    ]
    data: Annotated[Path, path_option("Dataset of the images; their names, sizes and hashes are read from it.")]
    teacher: Annotated[str, result_option("Name of the network that computed the embeddings, for tables and stores.")]
    paths: Annotated[
        tuple[File, ...],
        result_option(
            "[SPLIT=]FILE: text file with the image of each row, one path per line, relative to the dataset or to the "
            "split. The published code's files need none: their rows are in ImageFolder's order. Repeatable."
        ),
    ] = ()
    array: Annotated[
        str | None, result_option("Name of the matrix in an HDF5 file or a zarr group that has several.")
    ] = None
    size: Annotated[int, result_option("Side of the network's input, in pixels.", ge=8, le=MAX_PIXELS)] = 224
    resize: Annotated[int, result_option("Short side before the centre crop, in pixels.", ge=8, le=MAX_PIXELS)] = 256
    interpolation: Annotated[Literal["bilinear", "bicubic"], result_option("Interpolation of the resizing.")] = (
        "bilinear"
    )
    normalise: Annotated[
        bool, result_option("Write L2-normalised embeddings, for norms that do not fit in float16.")
    ] = False
    labels: LabelFile = None
    on_bad_image: Annotated[
        Literal["stop", "skip"],
        result_option("Stop at an image that cannot be decoded, or record it and leave it out."),
    ] = "stop"
    index_folder: Annotated[
        Path | None, runtime_option("Folder that caches the index of the images (default: 'index' beside the store).")
    ] = None
    block_rows: Annotated[int | None, result_option("Images per block (default: about 16 MiB).", ge=1)] = None
    threads: Annotated[int | None, runtime_option("CPU threads for indexing (default: all cores).", ge=1)] = None
    overwrite: Annotated[bool, runtime_option("Replace the store if it exists.")] = False

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
