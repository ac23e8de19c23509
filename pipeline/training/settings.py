"""Settings of every training."""

from typing import Annotated, Literal, Self

from pydantic import model_validator

from compress_ssl.pipeline.common.settings import OutputSettings, Precision, result_option, runtime_option

Epochs = Annotated[int, result_option("Passes over the images.", ge=1)]
LearningRate = Annotated[float, result_option("Initial learning rate.", gt=0)]
WeightDecay = Annotated[float, result_option("Weight decay of the optimizer.", ge=0)]
Schedule = Annotated[
    Literal["step", "cosine", "cosine-per-epoch"],
    result_option(
        "Learning rate schedule: decay by --gamma at each of --milestones, or half a cosine to zero, updated at every "
        "step or once per epoch."
    ),
]


class TrainingSettings(OutputSettings):
    """Optimizer, learning rate schedule, precision, checkpoints and live evaluation."""

    epochs: Epochs
    batch_size: Annotated[int, result_option("Images per step, over all ranks.", ge=2)] = 256
    keep_last: Annotated[
        bool, result_option("Also train on the last, smaller batch of each epoch, which is left out otherwise.")
    ] = False
    optimizer: Annotated[Literal["sgd", "adamw"], result_option("SGD with momentum, or AdamW.")] = "sgd"
    learning_rate: LearningRate
    momentum: Annotated[float, result_option("Momentum of SGD.", ge=0, lt=1)] = 0.9
    nesterov: Annotated[bool, result_option("Nesterov's momentum (SGD).")] = False
    weight_decay: WeightDecay = 1e-4
    no_decay_on: Annotated[
        Literal["none", "norms", "norms-and-biases"],
        result_option(
            "Parameters without weight decay: none, those of layers whose weight has one dimension (norms), or all of "
            "one dimension (norms and biases)."
        ),
    ] = "none"
    schedule: Schedule
    milestones: Annotated[
        tuple[int, ...],
        result_option("Epoch at which the step schedule multiplies the learning rate by --gamma. Repeatable."),
    ] = (90, 120)
    gamma: Annotated[
        float, result_option("Factor of the learning rate at each of --milestones (step schedule).", gt=0)
    ] = 0.2
    warmup_epochs: Annotated[float, result_option("Epochs of linear warm-up of the learning rate from zero.", ge=0)] = (
        0.0
    )
    clip_norm: Annotated[
        float | None, result_option("Clip the norm of all weights' gradient at this value (default: no limit).", gt=0)
    ] = None
    precision: Annotated[
        Precision,
        result_option(
            "Precision of the networks in training (automatic mixed precision); losses are float32. auto is float32 on "
            "a CPU and bfloat16 on a GPU."
        ),
    ] = "auto"
    memory_format: Annotated[
        Literal["channels_last", "contiguous"], result_option("torch's memory format of images and weights.")
    ] = "channels_last"
    compile: Annotated[bool, result_option("Compile the networks with torch.compile; needs a C++ compiler.")] = False
    sync_bn: Annotated[
        bool, result_option("Synchronized batch norm: statistics over the batch of all ranks; needs several GPUs.")
    ] = False
    seed: Annotated[
        int, result_option("Seed of the initial weights, the order of images and all other randomness.", ge=0, lt=2**64)
    ] = 0
    checkpoint_minutes: Annotated[
        float, runtime_option("Save a checkpoint every N minutes, in addition to the end of each epoch.", gt=0)
    ] = 10
    keep_every: Annotated[
        int | None, runtime_option("Keep the checkpoint and network of every N-th epoch, in RUN/epoch-NNNN.", ge=1)
    ] = None
    live_every: Annotated[
        int | None, runtime_option("Measure nearest-neighbour accuracy every N epochs; RUN/best keeps the best.", ge=1)
    ] = None
    live_split: Annotated[str, runtime_option("Split that --live-every scores.")] = "val"
    live_images: Annotated[
        int, runtime_option("Maximum number of images per split for --live-every, evenly spaced.", ge=1)
    ] = 2000
    tensorboard: Annotated[bool, runtime_option("Log the metrics to TensorBoard too, in RUN/tensorboard.")] = False

    @model_validator(mode="after")
    def _options_have_an_effect(self) -> Self:
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError("--nesterov needs --optimizer sgd with a --momentum above 0; leave it out.")
        if self.no_decay_on != "none" and self.weight_decay == 0:
            raise ValueError("--no-decay-on needs a --weight-decay above 0; leave it out.")
        return self
