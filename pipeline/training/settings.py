"""What every training can be told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from compress_ssl.pipeline.common.settings import OutputSettings


class TrainingSettings(OutputSettings):
    """Optimiser, schedule, precision, checkpoints, and what is measured on the way."""

    epochs: Annotated[int, Field(ge=1, description="Passes over the images.")]
    batch_size: Annotated[int, Field(ge=2, description="Images in one step, of all processes together.")] = 256
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
    warmup_epochs: Annotated[
        float, Field(ge=0, description="Epochs over which the rate first rises linearly from zero.")
    ] = 0.0
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"],
        Field(description="Of the networks while they train (automatic mixed precision); losses are float32."),
    ] = "float32"
    memory_format: Annotated[
        Literal["channels_last", "contiguous"], Field(description="How images and weights lie in memory.")
    ] = "channels_last"
    compile: Annotated[bool, Field(description="Compile the networks with torch.compile; needs a C++ compiler.")] = (
        False
    )
    sync_bn: Annotated[
        bool,
        Field(
            description="Of several processes on GPUs: batch norm takes the statistics of the whole batch, not of each."
        ),
    ] = False
    seed: Annotated[
        int, Field(ge=0, lt=2**64, description="Draws weights, the order of images, and whatever is random.")
    ] = 0
    checkpoint_minutes: Annotated[
        float, Field(gt=0, description="Besides at every epoch's end, save after this many minutes.")
    ] = 10
    keep_every: Annotated[
        int | None,
        Field(ge=1, description="Keep checkpoint and network of every so many epochs, in RUN/epoch-N."),
    ] = None
    live_every: Annotated[
        int | None,
        Field(
            ge=1,
            description="Measure nearest-neighbour accuracy every so many epochs; the best network is kept in RUN/best.",
        ),
    ] = None
    live_split: Annotated[str, Field(description="Split whose images are then scored.")] = "val"
    live_images: Annotated[
        int, Field(ge=1, description="At most so many images of each split are used for that, evenly spaced.")
    ] = 2000
    tensorboard: Annotated[bool, Field(description="Write the metrics for TensorBoard too, to RUN/tensorboard.")] = (
        False
    )
