"""What every training can be told."""

from __future__ import annotations

from typing import Annotated, Literal

from compress_ssl.pipeline.common.settings import OutputSettings, result_option, runtime_option


class TrainingSettings(OutputSettings):
    """Optimiser, schedule, precision, checkpoints, and what is measured on the way."""

    epochs: Annotated[int, result_option("Passes over the images.", ge=1)]
    batch_size: Annotated[int, result_option("Images in one step, of all processes together.", ge=2)] = 256
    optimizer: Annotated[Literal["sgd", "adamw"], result_option("SGD with momentum, or AdamW.")] = "sgd"
    learning_rate: Annotated[float, result_option("Learning rate at the start.", gt=0)]
    momentum: Annotated[float, result_option("Of SGD.", ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, result_option("Of the optimiser.", ge=0)] = 1e-4
    schedule: Annotated[
        Literal["step", "cosine"], result_option("Steps at the milestones, or one half cosine to zero.")
    ]
    milestones: Annotated[
        tuple[int, ...],
        result_option("Epochs at which the step schedule multiplies the rate by gamma. Repeatable."),
    ] = (90, 120)
    gamma: Annotated[float, result_option("Factor of the step schedule.", gt=0)] = 0.2
    warmup_epochs: Annotated[
        float, result_option("Epochs over which the rate first rises linearly from zero.", ge=0)
    ] = 0.0
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"],
        result_option("Of the networks while they train (automatic mixed precision); losses are float32."),
    ] = "float32"
    memory_format: Annotated[
        Literal["channels_last", "contiguous"], result_option("How images and weights lie in memory.")
    ] = "channels_last"
    compile: Annotated[bool, result_option("Compile the networks with torch.compile; needs a C++ compiler.")] = False
    sync_bn: Annotated[
        bool,
        result_option("Of several processes on GPUs: batch norm takes the statistics of the whole batch, not of each."),
    ] = False
    seed: Annotated[
        int, result_option("Draws weights, the order of images, and whatever is random.", ge=0, lt=2**64)
    ] = 0
    checkpoint_minutes: Annotated[
        float, runtime_option("Besides at every epoch's end, save after this many minutes.", gt=0)
    ] = 10
    keep_every: Annotated[
        int | None,
        runtime_option("Keep checkpoint and network of every so many epochs, in RUN/epoch-N.", ge=1),
    ] = None
    live_every: Annotated[
        int | None,
        runtime_option(
            "Measure nearest-neighbour accuracy every so many epochs; the best network is kept in RUN/best.", ge=1
        ),
    ] = None
    live_split: Annotated[str, runtime_option("Split whose images are then scored.")] = "val"
    live_images: Annotated[
        int, runtime_option("At most so many images of each split are used for that, evenly spaced.", ge=1)
    ] = 2000
    tensorboard: Annotated[bool, runtime_option("Write the metrics for TensorBoard too, to RUN/tensorboard.")] = False
