"""What ``store verify`` can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from compress_ssl.pipeline.common.settings import StageSettings
from compress_ssl.pipeline.dask.settings import DaskSettings


class VerifySettings(DaskSettings, StageSettings):
    """Settings of the check of a store."""

    sample: Annotated[
        int | None,
        Field(
            ge=1,
            description="Read only so many blocks, drawn anew every time; with --teacher also how many images of each split are "
            "embedded again, 64 unless given.",
        ),
    ] = None
    teacher: Annotated[
        str | None,
        Field(
            description="The network that made the store, as embed takes it: a sample of images is rendered and embedded again. "
            "Needs --data."
        ),
    ] = None
    data: Annotated[Path | None, Field(description="Data set that the store was made from; with --teacher.")] = None
    seed: Annotated[int, Field(ge=0, lt=2**64, description="Draws random/NAME's weights, as it did for embed.")] = 0
    batch_size: Annotated[int, Field(ge=1, description="Images in one forward pass; with --teacher.")] = 32

    @model_validator(mode="after")
    def _teacher_and_data(self) -> Self:
        if (self.teacher is None) != (self.data is None):
            raise ValueError(
                "--teacher and --data go together: the images are embedded again; give both, or none of them."
            )
        return self
