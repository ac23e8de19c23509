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
    argument,
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
        argument("A store (of a teacher), a run's folder, a checkpoint, torchvision/NAME, timm/NAME or random/NAME."),
    ]
    data: Annotated[
        Path | None,
        Field(description="Data set with a sub-folder a split; not needed for a store."),
    ] = None
    check_content: ContentCheckSetting = "sample"
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
    crops: Annotated[
        Literal[1, 10],
        Field(description="Of each image: the centre, or ten, whose normalised features are averaged."),
    ] = 1


class LinearTraining(EvaluateSettings):
    """How a linear classifier is trained on frozen features; the defaults are the published protocol's."""

    views: Annotated[
        int,
        Field(
            ge=1,
            description="Stored random views; epoch e trains on view 1 + (e mod views). Of a store that has fewer, those it has.",
        ),
    ] = 4
    policy: Annotated[PolicySetting, Field(description=f"Augmentation of the random views: {', '.join(POLICIES)}.")] = (
        POLICIES["crop-flip"]
    )
    epochs: Annotated[int, Field(ge=1, description="Passes over the training images.")] = 40
    classifier_batch_size: Annotated[int, Field(ge=1, description="Images in one step of the classifier.")] = 256
    learning_rate: Annotated[float, Field(gt=0, description="Learning rate at the start.")] = 0.01
    lr_grid: Annotated[
        tuple[Rate, ...],
        Field(
            description="Train with all these rates in one pass on nine tenths of the training images, take the one best "
            "on the rest, and train with it on all; --learning-rate is then not used. Repeatable."
        ),
    ] = ()
    momentum: Annotated[float, Field(ge=0, lt=1, description="Of SGD.")] = 0.9
    weight_decay: Annotated[float, Field(ge=0, description="Of weights and bias.")] = 1e-4
    milestones: Annotated[
        tuple[Count, ...],
        Field(
            description="Epochs at which the rate is multiplied by gamma; at 3/8 and 3/4 of the training, which is 15 and 30 "
            "of 40, unless given. Repeatable."
        ),
    ] = ()
    gamma: Annotated[float, Field(gt=0, description="Factor at the milestones.")] = 0.1

    @property
    def drops(self) -> tuple[int, ...]:
        """The milestones, in epochs."""
        return self.milestones or (round(3 / 8 * self.epochs), round(3 / 4 * self.epochs))


class LinearSettings(LinearTraining):
    """Linear classifier on frozen features."""

    features: Annotated[
        Literal["stored", "live"],
        Field(
            description="stored: train on the embeddings of stored random views. live: render and forward every epoch, as "
            "published."
        ),
    ] = "stored"
    crops: Annotated[
        Literal[1, 10],
        Field(description="Of each test image: the centre, or ten, of which the probabilities are averaged."),
    ] = 1
    reference_images: Annotated[
        int,
        Field(
            ge=0,
            description="Report scikit-learn's LogisticRegression on the evaluation view too, where there are at most so "
            "many training images.",
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
        Field(description="Share of the training images that keep their labels, as many of each class. Repeatable."),
    ] = (1.0, 10.0)
    image_list: Annotated[
        tuple[Path, ...],
        Field(
            description="Text file that names the labelled images, a file name a line, as SimCLR's 1percent.txt; instead of "
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

    clusters: Annotated[int | None, Field(ge=2, description="Clusters; as many as classes unless given.")] = None
    iterations: Annotated[int, Field(ge=1, description="Of k-means.")] = 20
    restarts: Annotated[
        int, Field(ge=1, description="How often each clustering begins anew; the tightest is kept.")
    ] = 1
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=2**31)], ...],
        Field(
            min_length=1,
            description="Draws the first centroids; of several the mean is reported, and each one's. Repeatable.",
        ),
    ] = (1234,)
    pictures: Annotated[
        bool,
        Field(
            description="Draw the confusion matrix, the clusters' sizes, and (with --data) random images of random "
            "clusters."
        ),
    ] = False
    rows: Annotated[int, Field(ge=1, description="Clusters in that picture.")] = 35
    columns: Annotated[int, Field(ge=1, description="Images of each of them.")] = 20


class LayersSettings(EvaluateSettings):
    """Linear classifier on every layer; the defaults are DeepCluster's protocol."""

    UNUSED: ClassVar[frozenset[str]] = frozenset({"check_content"})

    layers: Annotated[
        tuple[str, ...],
        Field(description="Layers to score, such as conv5 or stage3; all unless given. Repeatable."),
    ] = ()
    epochs: Annotated[int, Field(ge=1, description="Passes over the training images.")] = 90
    classifier_batch_size: Annotated[int, Field(ge=1, description="Images in one step of the classifiers.")] = 256
    learning_rate: Annotated[float, Field(gt=0, description="Learning rate at the start.")] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1, description="Of SGD.")] = 0.9
    weight_decay: Annotated[
        float, Field(ge=0, description="Of weights and bias; the rate falls with it and the steps.")
    ] = 1e-4


class VocSettings(EvaluateSettings):
    """What both evaluations on VOC can be told."""

    UNUSED: ClassVar[frozenset[str]] = frozenset({"labels"})

    data: Annotated[
        Path | None,
        Field(description="Data set in VOC's layout: the folder that holds JPEGImages; a store needs it too."),
    ] = None
    train_split: Annotated[str, Field(description="List of ImageSets/Main to train on.")] = "trainval"
    test_split: Annotated[str, Field(description="List of ImageSets/Main that is scored.")] = "test"


class VocClassifySettings(VocSettings):
    """Classification on a data set in VOC layout; the defaults are the published protocol."""

    cost: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...],
        Field(
            min_length=1,
            description="Costs of the support vector machines that the cross validation chooses from. Repeatable.",
        ),
    ] = (*(10.0**power for power in range(-7, 3)), *(0.5**power for power in range(4, 20)))


class VocDetectSettings(VocSettings):
    """Detection on a data set in VOC layout; on VOC2007 the defaults are the schedule of Fast R-CNN."""

    UNUSED: ClassVar = VocSettings.UNUSED | {"size", "resize", "renderer", "check_content", "batch_size"}

    scales: Annotated[
        Literal["single", "fpn"],
        Field(
            description="Where boxes are looked for: one layer (AlexNet's conv5, a ResNet's third stage), or a feature "
            "pyramid over all stages of a ResNet."
        ),
    ] = "single"
    min_size: Annotated[int, Field(ge=16, description="Short side of the images, in pixels.")] = 600
    max_size: Annotated[int, Field(ge=16, description="Long side at most, in pixels.")] = 1000
    anchor_sizes: Annotated[
        tuple[Count, ...],
        Field(
            min_length=1,
            description="Sides of the anchors, in pixels of the resized image; a pyramid takes five, one a level. "
            "Repeatable.",
        ),
    ] = (32, 64, 128, 256, 512)
    regions: Annotated[int, Field(ge=2, description="Regions of an image that the second stage learns from.")] = 64
    epochs: Annotated[int, Field(ge=1, description="Passes over the training images.")] = 16
    detector_batch_size: Annotated[int, Field(ge=2, description="Images in one step of the detector.")] = 2
    learning_rate: Annotated[float, Field(gt=0, description="Learning rate at the start.")] = 0.001
    weight_decay: Annotated[float, Field(ge=0, description="Of the optimiser, SGD with a momentum of 0.9.")] = 5e-4
    milestones: Annotated[
        tuple[int, ...], Field(description="Epochs at which the rate is multiplied by gamma. Repeatable.")
    ] = (12,)
    gamma: Annotated[float, Field(gt=0, description="That factor.")] = 0.1
    warmup_epochs: Annotated[
        float, Field(ge=0, description="Epochs over which the rate first rises linearly from zero.")
    ] = 0.0
    checkpoint_minutes: Annotated[
        float, Field(gt=0, description="Besides at every epoch's end, save after this many minutes.")
    ] = 10
    overwrite: Annotated[
        bool, Field(description="Begin the training anew even where one of these settings can be gone on with.")
    ] = False
    score_every: Annotated[
        int | None,
        Field(
            ge=1,
            description="Score the test images before training and every so many epochs too, for the curve; nothing is "
            "chosen by it.",
        ),
    ] = None
    pictures: Annotated[int, Field(ge=0, description="Test images to draw boxes on, evenly spaced.")] = 8
