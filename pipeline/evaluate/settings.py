"""What the evaluations can be told: what all share, then each one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from compress_ssl.pipeline.common.settings import (
    ContentCheckSetting,
    ImageSelection,
    Precision,
    StageSettings,
    ViewGeometry,
    path_option,
    result_option,
    runtime_option,
)
from compress_ssl.pipeline.images.policies import POLICIES, PolicySetting

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]

DEFAULT_VOTE_TEMPERATURE = 0.07


class EvaluateSettings(StageSettings, ImageSelection, ViewGeometry):
    """What every evaluation can be told."""

    UNUSED: ClassVar[frozenset[str]] = frozenset()
    """Fields of those below that an evaluation has no use for; its command does not offer them."""

    model: Annotated[
        str,
        result_option(
            "A store (of a teacher), a run's folder, a checkpoint, torchvision/NAME, timm/NAME or random/NAME.",
            argument=True,
        ),
    ]
    data: Annotated[
        Path | None,
        path_option("Data set with a sub-folder a split; not needed for a store."),
    ] = None
    check_content: ContentCheckSetting = "sample"
    train_split: Annotated[str, result_option("Split whose labels are known.")] = "train"
    test_split: Annotated[str, result_option("Split that is scored.")] = "val"
    seed: Annotated[int, result_option("Draws whatever is random, and random/NAME's weights.", ge=0, lt=2**64)] = 0
    batch_size: Annotated[int, result_option("Images in one forward pass.", ge=1)] = 128
    precision: Annotated[Precision, result_option("Of the network; auto is float32 on a CPU and float16 on a GPU.")] = (
        "auto"
    )
    output: Annotated[
        Path | None,
        path_option("Folder for results and features; beside the model unless given."),
    ] = None


class KnnSettings(EvaluateSettings):
    """Nearest neighbour and weighted k-NN."""

    neighbours: Annotated[
        tuple[Count, ...],
        result_option(
            "Score also by the weighted vote of so many nearest neighbours; one of the defaults that is more "
            "than the training images is left out. Repeatable."
        ),
    ] = (20, 200)
    knn_temperature: Annotated[float, result_option("Divides the cosines of that vote.", gt=0)] = (
        DEFAULT_VOTE_TEMPERATURE
    )
    labels_per_class: Annotated[
        tuple[Count, ...],
        result_option("Score also with only so many labelled training images of each class. Repeatable."),
    ] = ()
    draws: Annotated[int, result_option("How often those are drawn; the mean is reported.", ge=1)] = 10
    crops: Annotated[
        Literal[1, 10],
        result_option("Of each image: the centre, or ten, whose normalised features are averaged."),
    ] = 1


class LinearTraining(EvaluateSettings):
    """How a linear classifier is trained on frozen features; the defaults are the published protocol's."""

    views: Annotated[
        int,
        result_option(
            "Stored random views; epoch e trains on view 1 + (e mod views). Of a store that has fewer, those it has.",
            ge=1,
        ),
    ] = 4
    policy: Annotated[PolicySetting, result_option(f"Augmentation of the random views: {', '.join(POLICIES)}.")] = (
        POLICIES["crop-flip"]
    )
    epochs: Annotated[int, result_option("Passes over the training images.", ge=1)] = 40
    classifier_batch_size: Annotated[int, result_option("Images in one step of the classifier.", ge=1)] = 256
    learning_rate: Annotated[float, result_option("Learning rate at the start.", gt=0)] = 0.01
    lr_grid: Annotated[
        tuple[Rate, ...],
        result_option(
            "Train with all these rates in one pass on nine tenths of the training images, take the one best "
            "on the rest, and train with it on all; --learning-rate is then not used. Repeatable."
        ),
    ] = ()
    momentum: Annotated[float, result_option("Of SGD.", ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, result_option("Of weights and bias.", ge=0)] = 1e-4
    milestones: Annotated[
        tuple[Count, ...],
        result_option(
            "Epochs at which the rate is multiplied by gamma; at 3/8 and 3/4 of the training, which is 15 and 30 "
            "of 40, unless given. Repeatable."
        ),
    ] = ()
    gamma: Annotated[float, result_option("Factor at the milestones.", gt=0)] = 0.1

    @property
    def drops(self) -> tuple[int, ...]:
        """The milestones, in epochs."""
        return self.milestones or (round(3 / 8 * self.epochs), round(3 / 4 * self.epochs))


class LinearSettings(LinearTraining):
    """Linear classifier on frozen features."""

    features: Annotated[
        Literal["stored", "live"],
        result_option(
            "stored: train on the embeddings of stored random views. live: render and forward every epoch, as "
            "published."
        ),
    ] = "stored"
    crops: Annotated[
        Literal[1, 10],
        result_option("Of each test image: the centre, or ten, of which the probabilities are averaged."),
    ] = 1
    reference_images: Annotated[
        int,
        result_option(
            "Report scikit-learn's LogisticRegression on the evaluation view too, where there are at most so "
            "many training images.",
            ge=0,
        ),
    ] = 20_000

    @model_validator(mode="after")
    def _views_are_stored_ones(self) -> Self:
        if self.features == "live" and "views" in self.model_fields_set:
            raise ValueError(
                "--views is of stored views, and --features live renders new ones every epoch; give one of them."
            )
        return self


class LowShotSettings(LinearTraining):
    """Linear classifier on a few labels."""

    percent: Annotated[
        tuple[Annotated[float, Field(gt=0, le=100)], ...],
        result_option("Share of the training images that keep their labels, as many of each class. Repeatable."),
    ] = (1.0, 10.0)
    image_list: Annotated[
        tuple[Path, ...],
        path_option(
            "Text file that names the labelled images, a file name a line, as SimCLR's 1percent.txt; instead of "
            "--percent. Repeatable."
        ),
    ] = ()

    @model_validator(mode="after")
    def _percent_or_lists(self) -> Self:
        if self.image_list and "percent" in self.model_fields_set:
            raise ValueError(
                "--image-list says which images keep their labels, and so does --percent; give one of them."
            )
        return self


class ClusterSettings(EvaluateSettings):
    """Cluster alignment; the defaults are the published protocol."""

    clusters: Annotated[int | None, result_option("Clusters; as many as classes unless given.", ge=2)] = None
    iterations: Annotated[int, result_option("Of k-means.", ge=1)] = 20
    restarts: Annotated[int, result_option("How often each clustering begins anew; the tightest is kept.", ge=1)] = 1
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=2**31)], ...],
        result_option(
            "Draws the first centroids; of several the mean is reported, and each one's. Repeatable.", min_length=1
        ),
    ] = (1234,)
    pictures: Annotated[
        bool,
        result_option(
            "Draw the confusion matrix, the clusters' sizes, and (with --data) random images of random clusters."
        ),
    ] = False
    rows: Annotated[int, result_option("Clusters in that picture.", ge=1)] = 35
    columns: Annotated[int, result_option("Images of each of them.", ge=1)] = 20


class LayersSettings(EvaluateSettings):
    """Linear classifier on every layer; the defaults are DeepCluster's protocol."""

    UNUSED: ClassVar[frozenset[str]] = frozenset({"check_content"})

    layers: Annotated[
        tuple[str, ...],
        result_option("Layers to score, such as conv5 or stage3; all unless given. Repeatable."),
    ] = ()
    epochs: Annotated[int, result_option("Passes over the training images.", ge=1)] = 90
    classifier_batch_size: Annotated[int, result_option("Images in one step of the classifiers.", ge=1)] = 256
    learning_rate: Annotated[float, result_option("Learning rate at the start.", gt=0)] = 0.01
    momentum: Annotated[float, result_option("Of SGD.", ge=0, lt=1)] = 0.9
    weight_decay: Annotated[
        float, result_option("Of weights and bias; the rate falls with it and the steps.", ge=0)
    ] = 1e-4


class VocSettings(EvaluateSettings):
    """What both evaluations on VOC can be told."""

    UNUSED: ClassVar[frozenset[str]] = frozenset({"labels"})

    data: Annotated[
        Path | None,
        path_option("Data set in VOC's layout: the folder that holds JPEGImages; a store needs it too."),
    ] = None
    train_split: Annotated[str, result_option("List of ImageSets/Main to train on.")] = "trainval"
    test_split: Annotated[str, result_option("List of ImageSets/Main that is scored.")] = "test"


class VocClassifySettings(VocSettings):
    """Classification on a data set in VOC layout; the defaults are the published protocol."""

    cost: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...],
        result_option(
            "Costs of the support vector machines that the cross validation chooses from. Repeatable.", min_length=1
        ),
    ] = (*(10.0**power for power in range(-7, 3)), *(0.5**power for power in range(4, 20)))


class VocDetectSettings(VocSettings):
    """Detection on a data set in VOC layout; on VOC2007 the defaults are the schedule of Fast R-CNN."""

    UNUSED: ClassVar = VocSettings.UNUSED | {"size", "resize", "renderer", "check_content", "batch_size"}

    scales: Annotated[
        Literal["single", "fpn"],
        result_option(
            "Where boxes are looked for: one layer (AlexNet's conv5, a ResNet's third stage), or a feature "
            "pyramid over all stages of a ResNet."
        ),
    ] = "single"
    min_size: Annotated[int, result_option("Short side of the images, in pixels.", ge=16)] = 600
    max_size: Annotated[int, result_option("Long side at most, in pixels.", ge=16)] = 1000
    anchor_sizes: Annotated[
        tuple[Count, ...],
        result_option(
            "Sides of the anchors, in pixels of the resized image; a pyramid takes five, one a level. Repeatable.",
            min_length=1,
        ),
    ] = (32, 64, 128, 256, 512)
    regions: Annotated[int, result_option("Regions of an image that the second stage learns from.", ge=2)] = 64
    epochs: Annotated[int, result_option("Passes over the training images.", ge=1)] = 16
    detector_batch_size: Annotated[int, result_option("Images in one step of the detector.", ge=2)] = 2
    learning_rate: Annotated[float, result_option("Learning rate at the start.", gt=0)] = 0.001
    weight_decay: Annotated[float, result_option("Of the optimiser, SGD with a momentum of 0.9.", ge=0)] = 5e-4
    milestones: Annotated[
        tuple[int, ...], result_option("Epochs at which the rate is multiplied by gamma. Repeatable.")
    ] = (12,)
    gamma: Annotated[float, result_option("That factor.", gt=0)] = 0.1
    warmup_epochs: Annotated[
        float, result_option("Epochs over which the rate first rises linearly from zero.", ge=0)
    ] = 0.0
    checkpoint_minutes: Annotated[
        float, runtime_option("Besides at every epoch's end, save after this many minutes.", gt=0)
    ] = 10
    overwrite: Annotated[
        bool, runtime_option("Begin the training anew even where one of these settings can be gone on with.")
    ] = False
    score_every: Annotated[
        int | None,
        result_option(
            "Score the test images before training and every so many epochs too, for the curve; nothing is "
            "chosen by it.",
            ge=1,
        ),
    ] = None
    pictures: Annotated[int, result_option("Test images to draw boxes on, evenly spaced.", ge=0)] = 8
