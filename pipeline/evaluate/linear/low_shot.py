"""Low-shot: a linear classifier on frozen features, trained on 1 % and 10 % of the labels (CompRess, section 4).

The labelled images are drawn class-balanced, as in SimCLR (Chen et al. 2020, section 6: about 12.8 and 128 images per
class of ImageNet): percent * N / 100 images, rounded down, the same number per class, with one more for some classes,
drawn from the seed, where it does not divide evenly; a class with fewer images contributes all it has. Or a file lists
them, in the format of google-research/simclr, imagenet_subsets/1percent.txt at be133b38fb21: one file name per line,
without its folder; published numbers are comparable on those two files.

The classifier is that of ``linear/evaluate.py``, trained on stored views of the labelled images only; its features are
standardised with the statistics of these images, as when the published eval_linear.py is given a training folder with
the subset. The published code has no script for this table; nothing is fine-tuned.

Letters: N training images, C classes.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.rng import philox
from compress_ssl.pipeline.common.settings import Settings
from compress_ssl.pipeline.evaluate.feature_source import FeatureSource
from compress_ssl.pipeline.evaluate.features import check_classes
from compress_ssl.pipeline.evaluate.linear.batches import Rows, StoredViews
from compress_ssl.pipeline.evaluate.linear.classifier import TOP, accuracy, fit, fit_standardisation
from compress_ssl.pipeline.evaluate.settings import LowShotSettings
from compress_ssl.pipeline.images.sources.text import read_lines
from compress_ssl.storage import Split

logger = logging.getLogger(__name__)

SUBSET_DRAW = 2**33  # number of the draw of labelled images

ROUNDING = 1e-9  # added before rounding down: some percentages are whole numbers of images except for floating point


class SubsetResult(Settings):
    """Accuracies on the test images with some labels, in percent."""

    subset: str  # ``1 %``, or a list's name
    train_images: int
    top1_percent: float
    top5_percent: float
    learning_rate: float
    held_out_top1_percent: dict[float, float]
    """Of each rate of the grid, on held-out labelled images; empty without a grid."""
    train_images_xxh3: str = ""
    """Hash of the rows trained on; results of the earliest releases have none."""


class LowShotResult(Settings):
    """Results of every subset of the labels."""

    subsets: tuple[SubsetResult, ...]
    views: int
    classes: int
    test_images: int

    def scores(self) -> dict[str, float]:
        """Return percentages by column heading; top-5 only with more than five classes."""
        scores = {}
        for result in self.subsets:
            scores[f"{result.subset} labels"] = result.top1_percent
            if self.classes > TOP:
                scores[f"{result.subset} labels, top-5"] = result.top5_percent
        return scores


def evaluate_low_shot(settings: LowShotSettings, source: FeatureSource, progress: Progress) -> LowShotResult:
    """Train a linear classifier on each subset of the labels, and score it on all test images.

    Raises:
        InputError: If an image has no label, a subset has no image of a class, or a list names missing images.
        RunError: If a training diverges.
    """
    settings = source.limit_views(settings)
    store = source.views(settings.views, settings.policy)
    split = store[settings.train_split]
    views = [source.read("training", split, view) for view in range(1 + settings.views)]
    train, test = views[0], source.read("test", store[settings.test_split])
    check_classes(train.labels, test.labels, split.class_names)
    results = []
    for name, rows in _subsets(settings, split, train.labels):
        features = [view.rows(rows) for view in views]
        labelled = StoredViews(features.__getitem__, settings.views, train.labels[rows])
        standardise = fit_standardisation([features[0]], source.device)
        fitted = fit(labelled, features[0].__getitem__, standardise, len(split.class_names), settings, progress)
        top1, top5 = accuracy(fitted.classifiers, [test.blocks()], test.labels)
        results.append(
            SubsetResult(
                subset=name,
                train_images=len(rows),
                train_images_xxh3=xxhash.xxh3_128_hexdigest(np.asarray(rows, np.int64).tobytes()),
                top1_percent=top1[0],
                top5_percent=top5[0],
                learning_rate=fitted.learning_rate,
                held_out_top1_percent=fitted.held_out_top1_percent,
            )
        )
    return LowShotResult(
        subsets=tuple(results), views=settings.views, classes=len(split.class_names), test_images=len(test.labels)
    )


def _subsets(settings: LowShotSettings, split: Split, labels: npt.NDArray[np.integer]) -> list[tuple[str, Rows]]:
    """Return name and rows (of the good images) of each subset; default percentages too small are left out."""
    if settings.image_list:
        paths = split.samples.take(np.flatnonzero(split.samples.good)).sample_path
        return [(file.stem, listed_subset(file, paths, labels, split.class_names)) for file in settings.image_list]
    percentages = sorted(set(settings.percent))
    if "percent" not in settings.model_fields_set:
        enough = [percent for percent in percentages if _count(labels, percent) >= len(np.unique(labels))]
        for percent in percentages if enough else ():
            if percent not in enough:
                logger.info(
                    "There are %d training images; %g %% of the labels are too few and left out.", len(labels), percent
                )
        percentages = enough or percentages[-1:]
    return [(f"{percent:g} %", balanced_subset(labels, percent, settings.seed)) for percent in percentages]


def _count(labels: npt.NDArray[np.integer], percent: float) -> int:
    return math.floor(percent * len(labels) / 100 + ROUNDING)


def balanced_subset(labels: npt.NDArray[np.integer], percent: float, seed: int) -> Rows:
    """Draw a percentage of the images, given their labels (N,); the same number per class, the same for the same seed.

    Raises:
        InputError: If there are more classes than images to draw.
    """
    classes = np.unique(labels)
    count = _count(labels, percent)
    if count < len(classes):
        raise InputError(
            f"{percent:g} % of {len(labels)} training images is {count}, fewer than the {len(classes)} classes; "
            "raise --percent."
        )
    generator = philox(seed, SUBSET_DRAW)
    one_more = set(generator.permutation(classes)[: count % len(classes)].tolist())
    chosen = []
    for label in classes:
        rows = generator.permutation(np.flatnonzero(labels == label))
        chosen.append(rows[: count // len(classes) + (label in one_more)])
    return np.sort(np.concatenate(chosen))


def listed_subset(
    file: Path, paths: Sequence[str], labels: npt.NDArray[np.integer], class_names: Sequence[str]
) -> Rows:
    """Return the rows of the images that a file lists, by file name or by path.

    Args:
        file: One name per line.
        paths: Paths of the N images, relative to the split's folder.
        labels (int array of shape (N,))

    Raises:
        InputError: If the file cannot be read, an image is missing or ambiguous, or a class has none.
    """
    known: dict[str, list[int]] = {}
    for row, path in enumerate(paths):
        for name in {path, path.rpartition("/")[2]}:
            known.setdefault(name, []).append(row)
    chosen = set()
    for number, line in read_lines(file, "image list"):
        found = known.get(line, [])
        if len(found) != 1:
            what = "is not among the training images" if not found else f"is the name of {len(found)} training images"
            raise InputError(f"'{line}', in line {number} of '{file}', {what}; correct the list.")
        chosen.add(found[0])
    rows = np.array(sorted(chosen), np.int64)
    missing = np.setdiff1d(labels, labels[rows])
    if len(missing):
        raise InputError(f"'{file}' lists no image of class '{class_names[missing[0]]}'; every class needs one.")
    return rows
