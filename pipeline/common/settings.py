"""What every stage's settings share. Each stage's own are in its ``settings.py``.

A setting is written once, as a field: its CLI option, recipe key, help and default derive from it.
These modules import no torch, so that ``--help`` is quick.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, ValidationError, model_validator

from compress_ssl.pipeline.common.torchrun import torchrun_env
from compress_ssl.storage.places.place import Place, location

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

Device = Literal["auto", "cpu", "cuda"]
Interpolation = Literal["bilinear", "bicubic"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]

Role = Literal["result", "path", "runtime"]
"""What a setting decides: the result, where something lies, or only how the stage runs."""


def _option(role: Role, description: str, *, argument: bool = False, **constraints: Any) -> Any:
    return Field(description=description, json_schema_extra={"role": role, "argument": argument}, **constraints)


result_option = partial(_option, "result")
"""A field that changes the result: another value makes an output out of date."""

path_option = partial(_option, "path")
"""A field that says where something lies: outputs depend on the content there, not on the path."""

runtime_option = partial(_option, "runtime")
"""A field that changes only how a stage runs: another value makes nothing out of date."""


StoreLocation = Annotated[Place, PlainValidator(location), PlainSerializer(str, when_used="json")]
"""Where a store is: a folder, or a URL (``compress_ssl.storage.places``)."""

ContentCheck = Literal["sample", "all"]

ContentCheckSetting = Annotated[
    ContentCheck,
    runtime_option(
        "Compare the images with the store's before anything else: all names, and the content of 256 evenly "
        "spaced images, or of all."
    ),
]

LabelFile = Annotated[
    Path | None,
    path_option("Text file with NAME CLASS a line, for splits whose images have no labels, such as a flat folder."),
]


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def fields_with_role(cls, *roles: Role) -> set[str]:
        """Names of the fields that were declared with one of these roles."""
        extras = {name: field.json_schema_extra for name, field in cls.model_fields.items()}
        return {name for name, extra in extras.items() if isinstance(extra, dict) and extra.get("role") in roles}

    def result_record(self, *without: str) -> dict[str, Any]:
        """JSON-ready values of the fields that change the result, except those named."""
        return self.model_dump(mode="json", include=self.fields_with_role("result") - {*without})


class StageSettings(Settings):
    """What each stage that renders images and runs a network can be told about the machine."""

    device: Annotated[Device, runtime_option("Where networks run; auto is the GPU where there is one.")] = "auto"
    threads: Annotated[
        int | None, runtime_option("CPU threads for decoding and for torch; all cores unless given.", ge=1)
    ] = None
    renderer: Annotated[
        Literal["dali", "torchvision"],
        result_option("What decodes and crops: DALI, or torchvision, the slower reference."),
    ] = "dali"

    @property
    def thread_count(self) -> int:
        """Threads to use: those asked for, else this process's part of the cores that it may use."""
        return self.threads or max(1, len(os.sched_getaffinity(0)) // torchrun_env().local_world_size)


class OutputSettings(StageSettings):
    """What a stage whose output is precious can be told about one that is there."""

    resume: Annotated[bool, runtime_option("Go on with what an interrupted run of the same settings left.")] = False
    overwrite: Annotated[bool, runtime_option("Delete the output if it exists, and begin again.")] = False

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.resume and self.overwrite:
            raise ValueError("--resume goes on with the output, --overwrite deletes it; give one of them.")
        return self


class ImageSelection(Settings):
    """Which images of a folder to take, and what to do about bad ones."""

    limit: Annotated[
        int | None,
        result_option("Take only this many images of each split, evenly spaced over its sorted list.", ge=1),
    ] = None
    subset: Annotated[
        Path | None,
        path_option(
            "Take only the images this text file lists, a path a line, relative to the data set; a split "
            "of which it lists none is taken whole."
        ),
    ] = None
    labels: LabelFile = None
    index_folder: Annotated[
        Path | None,
        runtime_option("Folder that keeps the index of the images; 'index' beside the output unless given."),
    ] = None
    on_bad_image: Annotated[
        Literal["stop", "skip"],
        result_option("A file that cannot be decoded ends the run, or is recorded and left out."),
    ] = "stop"


class ViewGeometry(Settings):
    """Sizes of what a network sees."""

    size: Annotated[int | None, result_option("Side of a view, in pixels; the network's own unless given.", ge=8)] = (
        None
    )
    resize: Annotated[
        int | None,
        result_option(
            "Evaluation view: short side before the centre crop, in pixels; the network's own unless given.", ge=8
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
