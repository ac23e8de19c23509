"""Settings of ``store verify``."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import model_validator

from compress_ssl.pipeline.common.settings import StageSettings, path_option, result_option
from compress_ssl.pipeline.dask.settings import DaskSettings


class VerifySettings(DaskSettings, StageSettings):
    """Settings of ``store verify``."""

    sample: Annotated[
        int | None,
        result_option(
            "Read only N blocks, drawn at random each time; with --teacher, also the number of images per split that "
            "are embedded again (default: 64).",
            ge=1,
        ),
    ] = None
    teacher: Annotated[
        str | None,
        result_option(
            "The network that made the store, as embed takes it: a sample of images is rendered and embedded again. "
            "Needs --data."
        ),
    ] = None
    data: Annotated[Path | None, path_option("Dataset that the store was made from; needed with --teacher.")] = None
    seed: Annotated[
        int, result_option("Seed of the weights of --teacher random/NAME, as given to embed.", ge=0, lt=2**64)
    ] = 0
    batch_size: Annotated[int, result_option("Images per forward pass; with --teacher.", ge=1)] = 32

    @model_validator(mode="after")
    def _teacher_and_data(self) -> Self:
        if (self.teacher is None) != (self.data is None):
            raise ValueError(
                "--teacher and --data go together, since the images are embedded again; give both or neither."
            )
        return self
