"""What ``evaluate`` can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from pipeline.settings import ImageSelection, Precision, StageSettings, ViewGeometry, argument

Count = Annotated[int, Field(ge=1)]


class EvaluateSettings(StageSettings, ImageSelection, ViewGeometry):
    """Settings of stage three."""

    model: Annotated[
        str,
        argument("A store (of a teacher), a run's folder, a model.safetensors, torchvision/NAME or random/NAME."),
    ]
    data: Annotated[
        Path | None,
        Field(description="Data set with a sub-folder a split; not needed for a store."),
    ] = None
    train_split: Annotated[str, Field(description="Split whose labels are known.")] = "train"
    test_split: Annotated[str, Field(description="Split that is scored.")] = "val"
    neighbours: Annotated[
        tuple[Count, ...],
        Field(
            description="Score also by the weighted vote of so many nearest neighbours; one of the defaults that is more "
            "than the training images is left out. Repeatable."
        ),
    ] = (20, 200)
    knn_temperature: Annotated[float, Field(gt=0, description="Divides the cosines of that vote.")] = 0.07
    labels_per_class: Annotated[
        tuple[Count, ...],
        Field(description="Score also with only so many labelled training images of each class. Repeatable."),
    ] = ()
    draws: Annotated[int, Field(ge=1, description="How often those are drawn; the mean is reported.")] = 10
    seed: Annotated[int, Field(ge=0, lt=2**64, description="Draws the labelled images, and random/NAME's weights.")] = 0
    batch_size: Annotated[int, Field(ge=1, description="Images in one forward pass.")] = 128
    precision: Annotated[
        Precision, Field(description="Of the network; auto is float32 on a CPU and float16 on a GPU.")
    ] = "auto"
    output: Annotated[
        Path | None,
        Field(description="Folder for results and features; beside the model unless given."),
    ] = None
