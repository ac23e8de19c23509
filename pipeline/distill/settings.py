"""What ``distill`` can be told. The defaults are the paper's (Koohpayegani et al. 2020, section 4 and published code)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings import argument
from pipeline.training.settings import TrainingSettings


class DistillSettings(TrainingSettings):
    """Settings of stage two."""

    store: Annotated[Path, argument("Embedding store of the teacher.")]
    data: Annotated[Path, argument("Data set that the store was made from.")]
    run: Annotated[Path, argument("Folder to write the student to.")]
    student: Annotated[
        str, Field(description="Architecture: resnet18, mobilenet_v2, alexnet, resnet18-32px, conv4-32, ...")
    ]
    objective: Annotated[
        Literal["compress-1q", "compress-2q"],
        Field(description="CompRess with one memory bank, the teacher's, or with two."),
    ] = "compress-2q"
    split: Annotated[str, Field(description="Split of the store to train on.")] = "train"
    views: Annotated[
        int | None, Field(ge=1, description="Use only the first so many random views; all of them unless given.")
    ] = None
    epochs: Annotated[int, Field(ge=1, description="Passes over the images; epoch e sees view 1 + e mod V.")] = 130
    learning_rate: Annotated[float, Field(gt=0, description="Learning rate at the start.")] = 0.01
    schedule: Annotated[
        Literal["step", "cosine"], Field(description="Steps at the milestones, or one half cosine to zero.")
    ] = "step"
    temperature: Annotated[float, Field(gt=0, description="Divides the similarities.")] = 0.04
    bank_size: Annotated[int, Field(ge=1, description="Anchor points in each memory bank.")] = 128_000
    key_momentum: Annotated[
        float, Field(ge=0, le=1, description="Of the key encoder's moving average; less for few steps.")
    ] = 0.999
