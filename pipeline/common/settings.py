"""What every stage's settings share. Each stage's own are in its ``settings.py``.

A setting is written once, as a field: its CLI option, recipe key, help and default derive from it.
These modules import no torch, so that ``--help`` is quick.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, ValidationError, model_validator

from compress_ssl.pipeline.common.torchrun import torchrun_env
from compress_ssl.storage.places.remote import RemotePath, location

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

HOW = frozenset(
    {"resume", "overwrite", "threads", "device", "index_folder", "scratch", "teacher_memory", "checkpoint_minutes"}
    | {"keep_every", "live_every", "live_split", "live_images", "tensorboard", "workers", "scheduler"}
)
"""Settings that say how a stage is run, not what comes out: a change of them makes nothing out of date."""

WHERE = frozenset({"data", "store", "also_store", "run", "output", "subset", "labels"})
"""Settings that say where things lie; what lies there is compared by its content."""

Device = Literal["auto", "cpu", "cuda"]
Interpolation = Literal["bilinear", "bicubic"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]

StoreLocation = Annotated[Path | RemotePath, PlainValidator(location), PlainSerializer(str, when_used="json")]
"""Where a store is: a folder, or a URL (``compress_ssl.storage.places.remote``)."""

ContentCheck = Literal["sample", "all"]

ContentCheckSetting = Annotated[
    ContentCheck,
    Field(
        description="Compare the images with the store's before anything else: all names, and the content of 256 evenly "
        "spaced images, or of all."
    ),
]

LabelFile = Annotated[
    Path | None,
    Field(
        description="Text file with NAME CLASS a line, for splits whose images have no labels, such as a flat folder."
    ),
]


def argument(description: str) -> Any:
    """A required field that is a positional argument of its command."""
    return Field(description=description, json_schema_extra={"argument": True})


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StageSettings(Settings):
    """What each stage that renders images and runs a network can be told about the machine."""

    device: Annotated[Device, Field(description="Where networks run; auto is the GPU where there is one.")] = "auto"
    threads: Annotated[
        int | None, Field(ge=1, description="CPU threads for decoding and for torch; all cores unless given.")
    ] = None
    renderer: Annotated[
        Literal["dali", "torchvision"],
        Field(description="What decodes and crops: DALI, or torchvision, the slower reference."),
    ] = "dali"

    @property
    def thread_count(self) -> int:
        """Threads to use: those asked for, else this process's part of the cores that it may use."""
        return self.threads or max(1, len(os.sched_getaffinity(0)) // torchrun_env().local_processes)


class OutputSettings(StageSettings):
    """What a stage whose output is precious can be told about one that is there."""

    resume: Annotated[bool, Field(description="Go on with what an interrupted run of the same settings left.")] = False
    overwrite: Annotated[bool, Field(description="Delete the output if it exists, and begin again.")] = False

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.resume and self.overwrite:
            raise ValueError("--resume goes on with the output, --overwrite deletes it; give one of them.")
        return self


class ImageSelection(Settings):
    """Which images of a folder to take, and what to do about bad ones."""

    limit: Annotated[
        int | None,
        Field(ge=1, description="Take only this many images of each split, evenly spaced over its sorted list."),
    ] = None
    subset: Annotated[
        Path | None,
        Field(
            description="Take only the images this text file lists, a path a line, relative to the data set; a split "
            "of which it lists none is taken whole."
        ),
    ] = None
    labels: LabelFile = None
    index_folder: Annotated[
        Path | None,
        Field(description="Folder that keeps the index of the images; 'index' beside the output unless given."),
    ] = None
    on_bad_image: Annotated[
        Literal["stop", "skip"],
        Field(description="A file that cannot be decoded ends the run, or is recorded and left out."),
    ] = "stop"


class ViewGeometry(Settings):
    """Sizes of what a network sees."""

    size: Annotated[
        int | None, Field(ge=8, description="Side of a view, in pixels; the network's own unless given.")
    ] = None
    resize: Annotated[
        int | None,
        Field(
            ge=8,
            description="Evaluation view: short side before the centre crop, in pixels; the network's own unless given.",
        ),
    ] = None


def own_options(shared: Mapping[str, Any], options: Mapping[str, Collection[str]], name: str) -> dict[str, Any]:
    """Of settings that several trainings share, those that do something for the one called ``name`` in ``options``."""
    foreign = {option for each in options.values() for option in each} - set(options.get(name, ()))
    return {key: value for key, value in shared.items() if key not in foreign}


def explain(error: ValidationError, spell: Callable[[str], str] = str) -> str:
    """Say in one sentence what is wrong with the first bad setting; ``spell`` writes its name."""
    first = error.errors()[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    message = message.replace("valid tuple", "list").replace("valid dictionary", "table")
    if not first["loc"]:
        return message
    # Where a setting may be one of several things, pydantic puts the one it tried between the names.
    setting, *inside = (part for part in first["loc"] if isinstance(part, str) and part.isidentifier())
    name = ".".join((spell(setting), *inside))
    if first["type"] == "missing":
        return f"{name} is missing; give it."
    if first["type"] == "value_error":
        return f"{name}: {message}"
    return f"{name}: {message[0].lower()}{message[1:]}, got {first['input']!r}."
