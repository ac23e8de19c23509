"""Settings of ``pretrain``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import model_validator

from compress_ssl.pipeline.common.settings import ImageSelection, ViewGeometry, own_options, path_option, result_option
from compress_ssl.pipeline.images.policies import POLICIES, PolicySetting
from compress_ssl.pipeline.training.settings import Epochs, LearningRate, Schedule, TrainingSettings, WeightDecay

OPTIONS: dict[str, set[str]] = {
    "simclr": {"temperature", "projection_dim"},
    "moco-v2": {"temperature", "projection_dim", "queue_size", "key_momentum"},
    "supervised": set(),
}  # options of each method, the keyword parameters of its class; a method refuses the options of the others


DEFAULT_METHOD: Final = "simclr"


def options_for(shared: Mapping[str, Any], method: str | None) -> dict[str, Any]:
    """Return the shared settings that a method (the default one if None) accepts."""
    return own_options(shared, OPTIONS, method or DEFAULT_METHOD)


class PretrainSettings(TrainingSettings, ImageSelection, ViewGeometry):
    """Settings of pre-training."""

    data: Annotated[Path, path_option("Dataset: a folder with one sub-folder per split, or a pack.", argument=True)]
    run: Annotated[Path, path_option("Folder to write the network to.", argument=True)]
    arch: Annotated[str, result_option("Architecture: resnet18, mobilenet_v2, resnet18-32px, conv4-64, ...")]
    method: Annotated[
        Literal["simclr", "moco-v2", "supervised"],
        result_option("Training method: SimCLR or MoCo v2 without labels, or cross entropy with labels."),
    ] = DEFAULT_METHOD
    split: Annotated[str, result_option("Split to train on, a folder of the dataset; '.' for the dataset itself.")] = (
        "train"
    )
    policy: Annotated[
        PolicySetting,
        result_option(f"Augmentation of the views: {', '.join(POLICIES)}; supervised defaults to crop-flip."),
    ] = POLICIES["moco-v2"]
    epochs: Epochs = 200
    learning_rate: LearningRate = 0.06
    weight_decay: WeightDecay = 5e-4
    schedule: Schedule = "cosine"
    temperature: Annotated[float, result_option("Temperature of the softmax (simclr, moco-v2).", gt=0)] = 0.2
    projection_dim: Annotated[
        int, result_option("Output dimension of the projection head, dropped after training (simclr, moco-v2).", ge=2)
    ] = 128
    queue_size: Annotated[
        int, result_option("Negative keys in the queue; at most as many as there are images (moco-v2).", ge=1)
    ] = 65_536
    key_momentum: Annotated[
        float, result_option("EMA momentum of the key encoder; lower it for few steps (moco-v2).", ge=0, le=1)
    ] = 0.999

    @model_validator(mode="before")
    @classmethod
    def _policy_of_the_method(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {"policy": "crop-flip", **given} if given.get("method") == "supervised" else given

    @model_validator(mode="after")
    def _options_of_the_method(self) -> Self:
        for option in sorted(self.model_fields_set & set().union(*OPTIONS.values()) - OPTIONS[self.method]):
            users = ", ".join(name for name, options in OPTIONS.items() if option in options)
            raise ValueError(
                f"--{option.replace('_', '-')} does nothing for --method {self.method}; leave it out, or take {users}."
            )
        return self
