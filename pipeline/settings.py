"""What every stage's settings share. Each stage's own are in its ``settings.py``.

A setting is written once, as a field: its CLI option, recipe key, help and default derive from it.
These modules import no torch, so that ``--help`` is quick.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]


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
    resume: Annotated[bool, Field(description="Go on with what an interrupted run of the same settings left.")] = False
    overwrite: Annotated[bool, Field(description="Delete the output if it exists, and begin again.")] = False

    @property
    def thread_count(self) -> int:
        """Threads to use: those asked for, else the cores that this process may use."""
        return self.threads or len(os.sched_getaffinity(0))


class ImageSelection(Settings):
    """Which images of a folder to take, and what to do about bad ones."""

    limit: Annotated[
        int | None, Field(ge=1, description="Take only this many images, evenly spaced over the sorted list.")
    ] = None
    subset: Annotated[
        Path | None, Field(description="Take only the images listed in this text file, one relative path a line.")
    ] = None
    on_bad_image: Annotated[
        Literal["stop", "skip"],
        Field(description="A file that cannot be decoded ends the run, or is recorded and left out."),
    ] = "stop"


class ViewGeometry(Settings):
    """Sizes of what the networks see."""

    size: Annotated[int, Field(ge=8, description="Side of a view, in pixels.")] = 224
    resize: Annotated[
        int, Field(ge=8, description="Evaluation view: the short side before the centre crop, in pixels.")
    ] = 256
