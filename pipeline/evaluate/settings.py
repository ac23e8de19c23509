"""Settings of the evaluations: the shared ones, then those of each."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from compress_ssl.pipeline.common.settings import (
    ContentCheckSetting,
    ImageSelection,
    PoolSetting,
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
    """Settings of every evaluation."""

    UNUSED: ClassVar[frozenset[str]] = frozenset()
    """Shared fields without effect on an evaluation; its command has no options for them."""

    model: Annotated[
        str,
        result_option(
            "A store (of a teacher), a run's folder, a checkpoint, torchvision/NAME, timm/NAME, random/NAME or "
            "MODULE:FUNCTION.",
            argument=True,
        ),
    ]
    data: Annotated[Path | None, path_option("Dataset with one sub-folder per split; not needed for a store.")] = None
    check_content: ContentCheckSetting = "sample"
    train_split: Annotated[str, result_option("Split with known labels.")] = "train"
    test_split: Annotated[str, result_option("Split that is scored.")] = "val"
    pool: PoolSetting = "own"
    patch_mean: Annotated[
        bool,
        result_option(
            "Score the mean of each image's patches instead of its embedding; of a store made with --patches."
        ),
    ] = False
    seed: Annotated[int, result_option("Seed of everything random, and of random/NAME's weights.", ge=0, lt=2**64)] = 0
    batch_size: Annotated[int, result_option("Images in one forward pass.", ge=1)] = 128
    precision: Annotated[
        Precision, result_option("Precision of the network; auto is float32 on a CPU and float16 on a GPU.")
    ] = "auto"
    output: Annotated[Path | None, path_option("Folder for results and features (default: beside the model).")] = None


class KnnSettings(EvaluateSettings):
    """Nearest neighbour and weighted k-NN."""

    neighbours: Annotated[
        tuple[Count, ...],
        result_option(
            "Numbers of neighbours of weighted k-NN; a default larger than the number of training images is left out. "
            "Repeatable."
        ),
    ] = (20, 200)
    knn_temperature: Annotated[
        float, result_option("Temperature of weighted k-NN, which divides the cosines.", gt=0)
    ] = DEFAULT_VOTE_TEMPERATURE
    labels_per_class: Annotated[
        tuple[Count, ...], result_option("Also score with only N labelled training images per class. Repeatable.")
    ] = ()
    draws: Annotated[
        int, result_option("Number of random draws for each --labels-per-class; the mean is reported.", ge=1)
    ] = 10
    crops: Annotated[
        Literal[1, 10], result_option("Crops per image: the centre, or ten, whose normalised features are averaged.")
    ] = 1


class LinearTraining(EvaluateSettings):
    """Training of a linear classifier on frozen features; the defaults are the published protocol."""

    views: Annotated[
        int,
        result_option(
            "Number N of stored random views, by default at most as many as a store has; epoch e trains on view "
            "1 + (e mod N).",
            ge=1,
        ),
    ] = 4
    policy: Annotated[PolicySetting, result_option(f"Augmentation of the random views: {', '.join(POLICIES)}.")] = (
        POLICIES["crop-flip"]
    )
    epochs: Annotated[int, result_option("Passes over the training images.", ge=1)] = 40
    classifier_batch_size: Annotated[int, result_option("Images in one step of the classifier.", ge=1)] = 256
    learning_rate: Annotated[float, result_option("Initial learning rate.", gt=0)] = 0.01
    lr_grid: Annotated[
        tuple[Rate, ...],
        result_option(
            "Learning rate to choose from, instead of --learning-rate: all are trained on nine tenths of the training "
            "images and scored on the rest; the best is then trained on all images. Repeatable."
        ),
    ] = ()
    momentum: Annotated[float, result_option("Momentum of SGD.", ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, result_option("Weight decay on weights and bias.", ge=0)] = 1e-4
    milestones: Annotated[
        tuple[Count, ...],
        result_option(
            "Epoch at which the learning rate is multiplied by --gamma (default: 3/8 and 3/4 of all epochs, 15 and "
            "30 of 40). Repeatable."
        ),
    ] = ()
    gamma: Annotated[float, result_option("Factor of the learning rate at each of --milestones.", gt=0)] = 0.1

    @property
    def drops(self) -> tuple[int, ...]:
        """The milestones, in epochs."""
        return self.milestones or (round(3 / 8 * self.epochs), round(3 / 4 * self.epochs))


class LinearSettings(LinearTraining):
    """Linear classifier on frozen features."""

    features: Annotated[
        Literal["stored", "live"],
        result_option(
            "stored: train on embeddings of stored random views. live: render and embed new views every epoch, as "
            "published."
        ),
    ] = "stored"
    crops: Annotated[
        Literal[1, 10], result_option("Crops per test image: the centre, or ten, whose probabilities are averaged.")
    ] = 1
    reference_images: Annotated[
        int,
        result_option(
            "Also report scikit-learn's LogisticRegression on the evaluation view, with at most this many training "
            "images.",
            ge=0,
        ),
    ] = 20_000

    @model_validator(mode="after")
    def _views_are_stored_ones(self) -> Self:
        if self.features == "live" and "views" in self.model_fields_set:
            raise ValueError(
                "--views counts stored views, but --features live renders new ones every epoch; give one of them."
            )
        return self


class LowShotSettings(LinearTraining):
    """Linear classifier on a few labels."""

    percent: Annotated[
        tuple[Annotated[float, Field(gt=0, le=100)], ...],
        result_option("Percentage of training images with labels, the same number per class. Repeatable."),
    ] = (1.0, 10.0)
    image_list: Annotated[
        tuple[Path, ...],
        path_option(
            "Text file of the labelled images, one file name per line, as SimCLR's 1percent.txt; replaces "
            "--percent. Repeatable."
        ),
    ] = ()

    @model_validator(mode="after")
    def _percent_or_lists(self) -> Self:
        if self.image_list and "percent" in self.model_fields_set:
            raise ValueError("--image-list and --percent both select the labelled images; give one of them.")
        return self


class ClusterSettings(EvaluateSettings):
    """Cluster alignment; the defaults are the published protocol."""

    clusters: Annotated[int | None, result_option("Number of clusters (default: the number of classes).", ge=2)] = None
    iterations: Annotated[int, result_option("Iterations of k-means.", ge=1)] = 20
    restarts: Annotated[int, result_option("Restarts of each k-means, of which the best is kept.", ge=1)] = 1
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=2**31)], ...],
        result_option("Seed of the initial centroids; of several the mean is reported too. Repeatable.", min_length=1),
    ] = (1234,)
    pictures: Annotated[
        bool,
        result_option("Draw the confusion matrix, cluster sizes, and (with --data) random images of random clusters."),
    ] = False
    rows: Annotated[int, result_option("Clusters that --pictures draws images of.", ge=1)] = 35
    columns: Annotated[int, result_option("Images per cluster that --pictures draws.", ge=1)] = 20


class LayersSettings(EvaluateSettings):
    """Linear classifier on every layer; the defaults are DeepCluster's protocol."""

    UNUSED: ClassVar[frozenset[str]] = frozenset({"check_content", "pool", "patch_mean"})

    layers: Annotated[
        tuple[str, ...], result_option("Layer to score, such as conv5 or stage3 (default: all layers). Repeatable.")
    ] = ()
    epochs: Annotated[int, result_option("Passes over the training images.", ge=1)] = 90
    classifier_batch_size: Annotated[int, result_option("Images in one step of the classifiers.", ge=1)] = 256
    learning_rate: Annotated[float, result_option("Initial learning rate.", gt=0)] = 0.01
    momentum: Annotated[float, result_option("Momentum of SGD.", ge=0, lt=1)] = 0.9
    weight_decay: Annotated[
        float, result_option("Weight decay on weights and bias; the learning rate decays with it.", ge=0)
    ] = 1e-4


class VocSettings(EvaluateSettings):
    """Settings of both evaluations on VOC."""

    UNUSED: ClassVar[frozenset[str]] = frozenset({"labels"})

    data: Annotated[
        Path | None, path_option("Dataset in VOC's layout: the folder that contains JPEGImages; a store needs it too.")
    ] = None
    train_split: Annotated[str, result_option("List of ImageSets/Main to train on.")] = "trainval"
    test_split: Annotated[str, result_option("List of ImageSets/Main that is scored.")] = "test"


class VocClassifySettings(VocSettings):
    """Classification on a dataset in VOC's layout; the defaults are the published protocol."""

    cost: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...],
        result_option(
            "Candidate costs C of the support vector machines, selected by cross validation. Repeatable.", min_length=1
        ),
    ] = (*(10.0**power for power in range(-7, 3)), *(0.5**power for power in range(4, 20)))


class VocDetectSettings(VocSettings):
    """Detection on a dataset in VOC's layout; on VOC2007 the defaults are the schedule of Fast R-CNN."""

    UNUSED: ClassVar = VocSettings.UNUSED | {
        *("size", "resize", "squash", "pool", "patch_mean", "renderer", "check_content", "batch_size")
    }

    scales: Annotated[
        Literal["single", "fpn"],
        result_option(
            "Feature maps of the detector: one layer (AlexNet's conv5, a ResNet's third stage), or a feature "
            "pyramid over all stages of a ResNet."
        ),
    ] = "single"
    min_size: Annotated[int, result_option("Short side of the images, in pixels.", ge=16)] = 600
    max_size: Annotated[int, result_option("Maximum long side, in pixels.", ge=16)] = 1000
    anchor_sizes: Annotated[
        tuple[Count, ...],
        result_option(
            "Sides of the anchors, in pixels of the resized image; a pyramid needs five, one per level. Repeatable.",
            min_length=1,
        ),
    ] = (32, 64, 128, 256, 512)
    regions: Annotated[int, result_option("Regions per image that the second stage is trained on.", ge=2)] = 64
    epochs: Annotated[int, result_option("Passes over the training images.", ge=1)] = 16
    detector_batch_size: Annotated[int, result_option("Images in one step of the detector.", ge=2)] = 2
    learning_rate: Annotated[float, result_option("Initial learning rate.", gt=0)] = 0.001
    weight_decay: Annotated[float, result_option("Weight decay of SGD (momentum 0.9).", ge=0)] = 5e-4
    milestones: Annotated[
        tuple[int, ...], result_option("Epoch at which the learning rate is multiplied by --gamma. Repeatable.")
    ] = (12,)
    gamma: Annotated[float, result_option("Factor of the learning rate at each of --milestones.", gt=0)] = 0.1
    warmup_epochs: Annotated[float, result_option("Epochs of linear warm-up of the learning rate from zero.", ge=0)] = (
        0.0
    )
    checkpoint_minutes: Annotated[
        float, runtime_option("Save a checkpoint every N minutes, in addition to the end of each epoch.", gt=0)
    ] = 10
    overwrite: Annotated[bool, runtime_option("Start the training from scratch, even if it could be resumed.")] = False
    score_every: Annotated[
        int | None,
        result_option(
            "Also score the test images before training and every N epochs, for the curve; no network is selected by "
            "these scores.",
            ge=1,
        ),
    ] = None
    pictures: Annotated[int, result_option("Test images to draw boxes on, evenly spaced.", ge=0)] = 8
