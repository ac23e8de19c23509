"""What ``pretrain`` can be told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import model_validator

from compress_ssl.pipeline.common.settings import (
    ImageSelection,
    ViewGeometry,
    own_options,
    path_option,
    result_option,
)
from compress_ssl.pipeline.images.policies import POLICIES, PolicySetting
from compress_ssl.pipeline.training.settings import TrainingSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

OPTIONS: dict[str, set[str]] = {
    "simclr": {"temperature", "projection_dim"},
    "moco-v2": {"temperature", "projection_dim", "queue_size", "key_momentum"},
    "supervised": set(),
}
"""By method, the options that it has; those of the others do nothing for it, and are refused."""


DEFAULT_METHOD: Final = "simclr"


def options_for(shared: Mapping[str, Any], method: str | None) -> dict[str, Any]:
    """Of settings that several networks share, those that do something for a method (the default one if None)."""
    return own_options(shared, OPTIONS, method or DEFAULT_METHOD)


class PretrainSettings(TrainingSettings, ImageSelection, ViewGeometry):
    """Settings of pre-training."""

    data: Annotated[Path, path_option("Data set: a folder with a sub-folder a split, or a pack.", argument=True)]
    run: Annotated[Path, path_option("Folder to write the network to.", argument=True)]
    arch: Annotated[str, result_option("Architecture: resnet18, mobilenet_v2, resnet18-32px, conv4-64, ...")]
    method: Annotated[
        Literal["simclr", "moco-v2", "supervised"],
        result_option("How it is trained: by SimCLR or MoCo v2 without labels, or by cross entropy with them."),
    ] = DEFAULT_METHOD
    split: Annotated[str, result_option("Folder of the data set to train on; '.' for the data set itself.")] = "train"
    policy: Annotated[
        PolicySetting,
        result_option(
            f"Augmentation of the views: {', '.join(POLICIES)}; supervised takes crop-flip unless given one."
        ),
    ] = POLICIES["moco-v2"]
    epochs: Annotated[int, result_option("Passes over the images.", ge=1)] = 200
    learning_rate: Annotated[float, result_option("Learning rate at the start.", gt=0)] = 0.06
    weight_decay: Annotated[float, result_option("Of the optimiser.", ge=0)] = 5e-4
    schedule: Annotated[
        Literal["step", "cosine"], result_option("Steps at the milestones, or one half cosine to zero.")
    ] = "cosine"
    temperature: Annotated[float, result_option("Divides the similarities (simclr, moco-v2).", gt=0)] = 0.2
    projection_dim: Annotated[
        int, result_option("Outputs of the projection head, which is thrown away (simclr, moco-v2).", ge=2)
    ] = 128
    queue_size: Annotated[
        int,
        result_option("Keys of the last so many images are negatives; at most as many as there are (moco-v2).", ge=1),
    ] = 65_536
    key_momentum: Annotated[
        float, result_option("Of the key encoder's moving average; less for few steps (moco-v2).", ge=0, le=1)
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
