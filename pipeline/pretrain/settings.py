"""What ``pretrain`` can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline.images.policies import POLICIES, PolicySetting
from pipeline.settings import ImageSelection, ViewGeometry, argument
from pipeline.training.settings import TrainingSettings


class PretrainSettings(TrainingSettings, ImageSelection, ViewGeometry):
    """Settings of self-supervised pre-training."""

    data: Annotated[Path, argument("Data set: a folder with a sub-folder a split, or a pack.")]
    run: Annotated[Path, argument("Folder to write the network to.")]
    arch: Annotated[str, Field(description="Architecture: resnet18, mobilenet_v2, resnet18-32px, conv4-64, ...")]
    method: Annotated[Literal["simclr"], Field(description="How it is trained.")] = "simclr"
    split: Annotated[str, Field(description="Folder of the data set to train on; '.' for the data set itself.")] = (
        "train"
    )
    policy: Annotated[PolicySetting, Field(description=f"Augmentation of the two views: {', '.join(POLICIES)}.")] = (
        POLICIES["moco-v2"]
    )
    epochs: Annotated[int, Field(ge=1, description="Passes over the images.")] = 200
    learning_rate: Annotated[float, Field(gt=0, description="Learning rate at the start.")] = 0.06
    weight_decay: Annotated[float, Field(ge=0, description="Of the optimiser.")] = 5e-4
    schedule: Annotated[
        Literal["step", "cosine"], Field(description="Steps at the milestones, or one half cosine to zero.")
    ] = "cosine"
    temperature: Annotated[float, Field(gt=0, description="Divides the similarities.")] = 0.2
    projection_dim: Annotated[int, Field(ge=2, description="Outputs of the projection head, which is thrown away.")] = (
        128
    )
