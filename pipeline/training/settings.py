"""What every training can be told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings import OutputSettings


class TrainingSettings(OutputSettings):
    """Optimiser, schedule and checkpoints."""

    epochs: Annotated[int, Field(ge=1, description="Passes over the images.")]
    batch_size: Annotated[int, Field(ge=2, description="Images in one step.")] = 256
    optimizer: Annotated[Literal["sgd", "adamw"], Field(description="SGD with momentum, or AdamW.")] = "sgd"
    learning_rate: Annotated[float, Field(gt=0, description="Learning rate at the start.")]
    momentum: Annotated[float, Field(ge=0, lt=1, description="Of SGD.")] = 0.9
    weight_decay: Annotated[float, Field(ge=0, description="Of the optimiser.")] = 1e-4
    schedule: Annotated[
        Literal["step", "cosine"], Field(description="Steps at the milestones, or one half cosine to zero.")
    ]
    milestones: Annotated[
        tuple[int, ...],
        Field(description="Epochs at which the step schedule multiplies the rate by gamma. Repeatable."),
    ] = (90, 120)
    gamma: Annotated[float, Field(gt=0, description="Factor of the step schedule.")] = 0.2
    seed: Annotated[int, Field(ge=0, description="Draws weights, the order of images, and whatever is random.")] = 0
    checkpoint_minutes: Annotated[
        float, Field(gt=0, description="Besides at every epoch's end, save after this many minutes.")
    ] = 10
