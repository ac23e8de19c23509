"""What ``pretrain`` can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.images.policies import POLICIES, PolicySetting
from pipeline.settings import ImageSelection, ViewGeometry, argument
from pipeline.training.settings import TrainingSettings

ONLY_SIMCLR = ("temperature", "projection_dim")
"""Settings that say nothing to the other methods."""


class PretrainSettings(TrainingSettings, ImageSelection, ViewGeometry):
    """Settings of pre-training."""

    data: Annotated[Path, argument("Data set: a folder with a sub-folder a split, or a pack.")]
    run: Annotated[Path, argument("Folder to write the network to.")]
    arch: Annotated[str, Field(description="Architecture: resnet18, mobilenet_v2, resnet18-32px, conv4-64, ...")]
    method: Annotated[
        Literal["simclr", "supervised"],
        Field(description="How it is trained: by SimCLR without labels, or by cross entropy with them."),
    ] = "simclr"
    split: Annotated[str, Field(description="Folder of the data set to train on; '.' for the data set itself.")] = (
        "train"
    )
    policy: Annotated[
        PolicySetting,
        Field(
            description=f"Augmentation of the views: {', '.join(POLICIES)}; supervised takes crop-flip unless given one."
        ),
    ] = POLICIES["moco-v2"]
    epochs: Annotated[int, Field(ge=1, description="Passes over the images.")] = 200
    learning_rate: Annotated[float, Field(gt=0, description="Learning rate at the start.")] = 0.06
    weight_decay: Annotated[float, Field(ge=0, description="Of the optimiser.")] = 5e-4
    schedule: Annotated[
        Literal["step", "cosine"], Field(description="Steps at the milestones, or one half cosine to zero.")
    ] = "cosine"
    temperature: Annotated[float, Field(gt=0, description="Divides the similarities (simclr).")] = 0.2
    projection_dim: Annotated[
        int, Field(ge=2, description="Outputs of the projection head, which is thrown away (simclr).")
    ] = 128

    @model_validator(mode="before")
    @classmethod
    def _policy_of_the_method(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {"policy": "crop-flip", **given} if given.get("method") == "supervised" else given

    @model_validator(mode="after")
    def _options_of_the_method(self) -> Self:
        if self.method != "simclr":
            for name in ONLY_SIMCLR:
                if name in self.model_fields_set:
                    raise ValueError(
                        f"--{name.replace('_', '-')} belongs to simclr, and --method {self.method} has none; leave it "
                        "out."
                    )
        return self
