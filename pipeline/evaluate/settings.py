"""What the evaluations can be told: what all share, then each one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings import ImageSelection, Precision, StageSettings, ViewGeometry, argument

Count = Annotated[int, Field(ge=1)]

DEFAULT_VOTE_TEMPERATURE = 0.07


class EvaluateSettings(StageSettings, ImageSelection, ViewGeometry):
    """What every evaluation can be told."""

    model: Annotated[
        str,
        argument("A store (of a teacher), a run's folder, a checkpoint, torchvision/NAME, timm/NAME or random/NAME."),
    ]
    data: Annotated[
        Path | None,
        Field(description="Data set with a sub-folder a split; not needed for a store."),
    ] = None
    train_split: Annotated[str, Field(description="Split whose labels are known.")] = "train"
    test_split: Annotated[str, Field(description="Split that is scored.")] = "val"
    seed: Annotated[int, Field(ge=0, lt=2**64, description="Draws whatever is random, and random/NAME's weights.")] = 0
    batch_size: Annotated[int, Field(ge=1, description="Images in one forward pass.")] = 128
    precision: Annotated[
        Precision, Field(description="Of the network; auto is float32 on a CPU and float16 on a GPU.")
    ] = "auto"
    output: Annotated[
        Path | None,
        Field(description="Folder for results and features; beside the model unless given."),
    ] = None


class KnnSettings(EvaluateSettings):
    """Nearest neighbour and weighted k-NN."""

    neighbours: Annotated[
        tuple[Count, ...],
        Field(
            description="Score also by the weighted vote of so many nearest neighbours; one of the defaults that is more "
            "than the training images is left out. Repeatable."
        ),
    ] = (20, 200)
    knn_temperature: Annotated[float, Field(gt=0, description="Divides the cosines of that vote.")] = (
        DEFAULT_VOTE_TEMPERATURE
    )
    labels_per_class: Annotated[
        tuple[Count, ...],
        Field(description="Score also with only so many labelled training images of each class. Repeatable."),
    ] = ()
    draws: Annotated[int, Field(ge=1, description="How often those are drawn; the mean is reported.")] = 10


class LinearSettings(EvaluateSettings):
    """Linear classifier on frozen features; the defaults are the published protocol."""

    features: Annotated[
        Literal["stored", "live"],
        Field(
            description="stored: train on the embeddings of so many stored random views. live: render and forward every "
            "epoch, as published."
        ),
    ] = "stored"


class LowShotSettings(EvaluateSettings):
    """Linear classifier on a few labels."""


class ClusterSettings(EvaluateSettings):
    """Cluster alignment."""


class LayersSettings(EvaluateSettings):
    """Linear classifier on every layer."""


class VocClassifySettings(EvaluateSettings):
    """Classification on a data set in VOC layout."""


class VocDetectSettings(EvaluateSettings):
    """Detection on a data set in VOC layout."""
