"""Base classes and fields of all settings; each stage adds its own in its ``settings.py``.

A setting is declared once, as a field: its CLI option, recipe key, help, default and role derive from it. These modules
do not import torch, so that ``--help`` is quick.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, ValidationError, model_validator

from compress_ssl.pipeline.common.torchrun import torchrun_env
from compress_ssl.storage.attributes import MAX_PIXELS
from compress_ssl.storage.places.place import Place, location
from compress_ssl.storage.places.urls import check_is_path, check_no_secrets, without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

Device = Literal["auto", "cpu", "cuda"]
Interpolation = Literal["bilinear", "bicubic"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
RendererName = Literal["dali", "torchvision", "auto"]
RENDERERS: tuple[RendererName, ...] = ("dali", "torchvision")

Role = Literal["result", "path", "runtime"]
"""Effect of a setting: it changes the result, is the path of something, or changes only how a stage runs.

``result``: another value makes an output out of date, and a run is not resumed with it. It covers all that can change a
number, if only by rounding (``renderer``, ``compile``, ``memory_format``, ``batch_size``), what is left out
(``on_bad_image``) and extra content of a result (``pictures``, ``score_every``).

``path``: outputs depend on the content found there, not on the path; whatever reads it records a hash of the content.

``runtime``: another value makes nothing out of date. The machine decides some of them (``device``, ``threads``); others
add checks, logs or copies to a run without touching its network (``check_content``, ``tensorboard``, ``keep_every``,
``live_every``).
"""


def _option(role: Role, description: str, *, argument: bool = False, **constraints: Any) -> Any:
    return Field(description=description, json_schema_extra={"role": role, "argument": argument}, **constraints)


result_option = partial(_option, "result")
path_option = partial(_option, "path")
runtime_option = partial(_option, "runtime")

StoreLocation = Annotated[Place, PlainValidator(location), PlainSerializer(str, when_used="json")]
"""A folder, or the URL of a bucket or web server (``compress_ssl.storage.places``)."""

ContentCheck = Literal["sample", "all"]

ContentCheckSetting = Annotated[
    ContentCheck,
    runtime_option(
        "Check first that the images are those of the store: all names, and the content of 256 evenly spaced images "
        "(sample) or of every image (all)."
    ),
]

LabelFile = Annotated[
    Path | None,
    path_option("Text file with one NAME CLASS per line, for splits without labels, such as a flat folder."),
]


class Settings(BaseModel):
    """Base of all settings: immutable, and unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)  # ``--help`` needs no validator

    @model_validator(mode="after")
    def _values_can_be_used(self) -> Self:
        for value in self.__dict__.values():
            for each in value if isinstance(value, tuple) else (value,):
                if isinstance(each, Path):
                    check_is_path(each)
                elif isinstance(each, str):
                    check_no_secrets(each)
                elif isinstance(each, int) and abs(each) >= 2**63:
                    raise ValueError("a number of more than 63 bits can be no setting; correct it.")
        return self

    @classmethod
    def fields_with_role(cls, *roles: Role) -> set[str]:
        """Return the names of the fields with one of these roles."""
        extras = {name: field.json_schema_extra for name, field in cls.model_fields.items()}
        return {name for name, extra in extras.items() if isinstance(extra, dict) and extra.get("role") in roles}

    def result_record(self, *without: str) -> dict[str, Any]:
        """Return the JSON values of the fields that change the result, except those named."""
        return self.model_dump(mode="json", include=self.fields_with_role("result") - {*without})


class StageSettings(Settings):
    """Settings of every stage that renders images and runs a network."""

    device: Annotated[Device, runtime_option("Device of the networks; auto is the GPU if there is one.")] = "auto"
    threads: Annotated[
        int | None, runtime_option("CPU threads for decoding and for torch (default: all available cores).", ge=1)
    ] = None
    renderer: Annotated[
        RendererName,
        result_option(
            "Library that decodes and crops. auto: 'embed' takes the faster one on this machine, by a short trial on "
            "the CPU; 'distill' the store's; others DALI."
        ),
    ] = "dali"

    @property
    def thread_count(self) -> int:
        """Number of threads: the setting, or this rank's share of the available cores."""
        return self.threads or max(1, len(os.sched_getaffinity(0)) // torchrun_env().local_world_size)


class OutputSettings(StageSettings):
    """Settings of stages that never replace their output unasked."""

    resume: Annotated[bool, runtime_option("Continue an interrupted run of the same settings.")] = False
    overwrite: Annotated[bool, runtime_option("Delete the output if it exists, and start again.")] = False

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.resume and self.overwrite:
            raise ValueError("--resume continues the output, --overwrite deletes it; give one of them.")
        return self


class ImageSelection(Settings):
    """Which images of a dataset are used, and what happens to bad ones."""

    limit: Annotated[
        int | None, result_option("Use only this many images of each split, evenly spaced over its sorted list.", ge=1)
    ] = None
    subset: Annotated[
        Path | None,
        path_option(
            "Use only the images in this text file, one path per line, relative to the dataset; a split without any is "
            "used whole."
        ),
    ] = None
    labels: LabelFile = None
    index_folder: Annotated[
        Path | None, runtime_option("Folder that caches the index of the images (default: 'index' beside the output).")
    ] = None
    on_bad_image: Annotated[
        Literal["stop", "skip"],
        result_option("Stop at an image that cannot be decoded, or record it and leave it out."),
    ] = "stop"


PoolSetting = Annotated[
    Literal["own", "token", "avg", "token+avg", "map"],
    result_option(
        "What is pooled to one feature vector, of timm's ViTs: the class token, the mean of the patch tokens, both, or "
        "the network's attention pooling. own: what its authors evaluate."
    ),
]


class ViewGeometry(Settings):
    """Sizes of the views that a network sees."""

    size: Annotated[
        int | None, result_option("Side of a view, in pixels (default: the network's).", ge=8, le=MAX_PIXELS)
    ] = None
    resize: Annotated[
        int | None,
        result_option(
            "Short side before the evaluation view's centre crop, in pixels (default: the network's).",
            ge=8,
            le=MAX_PIXELS,
        ),
    ] = None
    squash: Annotated[
        bool | None,
        result_option(
            "Resize both sides before the evaluation view's centre crop, so that the image is distorted to a square, "
            "as SigLIP is evaluated (default: the network's)."
        ),
    ] = None


def own_options(shared: Mapping[str, Any], options: Mapping[str, Collection[str]], name: str) -> dict[str, Any]:
    """Return the shared settings that have an effect on the training called ``name`` in ``options``."""
    foreign = {option for each in options.values() for option in each} - set(options.get(name, ()))
    return {key: value for key, value in shared.items() if key not in foreign}


def explain(error: ValidationError, spell: Callable[[str], str] = str) -> str:
    """Return one sentence on the first bad setting; ``spell`` writes its name."""
    first = error.errors()[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    message = message.replace("valid tuple", "list").replace("valid dictionary", "table")
    if not first["loc"]:
        return message
    # For a union pydantic puts the member that it tried between the names.
    setting, *inside = (part for part in first["loc"] if isinstance(part, str) and part.isidentifier())
    name = ".".join((spell(setting), *inside))
    if first["type"] == "missing":
        return f"{name} is missing; give it."
    if first["type"] == "value_error":
        return f"{name}: {message}"
    return f"{name}: {message[0].lower()}{message[1:]}, got {without_secrets(repr(first['input']))}."
