"""Nearest neighbour and weighted k-NN on the features of view 0, or of ten crops, from one search.

Letters: N images, D features, R rows of a block.
"""

import logging
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.settings import Settings
from compress_ssl.pipeline.evaluate.feature_source import FeatureSource
from compress_ssl.pipeline.evaluate.features import Features, StoredFeatures, l2_normalize
from compress_ssl.pipeline.evaluate.knn.accuracy import (
    NearestNeighbourResult,
    WeightedKnnResult,
    few_labels_accuracy,
    nearest_neighbour_accuracy,
    weighted_knn_accuracy,
)
from compress_ssl.pipeline.evaluate.knn.search import nearest_neighbours
from compress_ssl.pipeline.evaluate.settings import DEFAULT_VOTE_TEMPERATURE, KnnSettings
from compress_ssl.pipeline.images.policies import CROPS
from compress_ssl.storage import Split

Block = npt.NDArray[np.floating]

logger = logging.getLogger(__name__)


class KnnResult(Settings):
    """Scores by nearest neighbour and by weighted k-NN."""

    nearest: tuple[NearestNeighbourResult, ...]  # with all labels, then with each number of labels per class
    weighted: tuple[WeightedKnnResult, ...]  # with each number of neighbours
    crops: int = 1  # per image

    def scores(self) -> dict[str, float]:
        """Return top-1 in percent by column heading."""
        everything, *few_labels = self.nearest
        scores = {"NN": everything.top1_percent}
        for vote in self.weighted:
            is_default = vote.temperature == DEFAULT_VOTE_TEMPERATURE
            scores[f"k-NN {vote.neighbours}" + ("" if is_default else f", T {vote.temperature:g}")] = vote.top1_percent
        for result in few_labels:
            labels = "1 label" if result.labels_per_class == 1 else f"{result.labels_per_class} labels"
            scores[f"NN, {labels} a class"] = result.top1_percent
        return scores if self.crops == 1 else {f"{name}, {self.crops} crops": top1 for name, top1 in scores.items()}


class CropMeans:
    """The interface of ``StoredFeatures`` for those of the ten crops of N images.

    An image is represented by the mean of its L2-normalised crop features, since a search has no probabilities to
    average over crops, as a classifier has. This is our reading of "10-crop" for nearest neighbours: CompRess reports
    no such number.
    """

    def __init__(self, crops: Sequence[StoredFeatures]) -> None:
        self._crops = crops
        self.labels = self._crops[0].labels  # (N,)

    def blocks(self) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the features block by block (R, D), in order."""
        for crops in zip(*(crop.blocks() for crop in self._crops), strict=True):
            yield _mean_direction(crops)

    def rows(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """Return the features (len(rows), D) of some of the N images."""
        return _mean_direction([crop.rows(rows) for crop in self._crops])

    def in_memory(self) -> Features:
        """Return all features and labels."""
        return Features(np.concatenate(list(self.blocks())), self.labels)


def _mean_direction(crops: Sequence[npt.NDArray[np.floating]]) -> npt.NDArray[np.float32]:
    total = sum((l2_normalize(crop) for crop in crops), np.zeros(crops[0].shape, np.float32))
    return total / np.float32(len(crops))


def evaluate_knn(settings: KnnSettings, source: FeatureSource, progress: Progress) -> KnnResult:
    """Score by nearest neighbour and by the weighted vote of k neighbours.

    Raises:
        InputError: If an image has no label, a feature is not finite, or there are too few training images.
    """
    store = source.features() if settings.crops == 1 else source.crops(training=True)

    def read(name: str, split: Split) -> StoredFeatures | CropMeans:
        if settings.crops == 1:
            return source.read(name, split)
        return CropMeans([source.read(name, split, 1 + crop) for crop in range(CROPS)])

    train = read("training", store[settings.train_split])
    test = read("test", store[settings.test_split]).in_memory()
    counts = []
    for count in sorted(set(settings.neighbours)):
        if count <= len(train.labels):
            counts.append(count)
        elif "neighbours" in settings.model_fields_set:  # a default is no error
            raise InputError(
                f"--neighbours {count} is more than the {len(train.labels)} training images of split "
                f"{settings.train_split}; give fewer."
            )
        else:
            logger.info("There are %d training images; k-NN %d is left out.", len(train.labels), count)
    few_labels = [
        few_labels_accuracy(
            train.rows, train.labels, test, count, draws=settings.draws, seed=settings.seed, device=source.device
        )
        for count in sorted(set(settings.labels_per_class))
    ]
    with progress.track("search", len(train.labels)) as advance:
        bank = _with_progress(train.blocks(), advance)
        found = nearest_neighbours(bank, test.features, max([1, *counts]), device=source.device)
    nearest = nearest_neighbour_accuracy(found, train.labels, test.labels)
    temperature = settings.knn_temperature
    weighted = tuple(
        weighted_knn_accuracy(found, train.labels, test.labels, neighbours=count, temperature=temperature)
        for count in counts
    )
    return KnnResult(nearest=(nearest, *few_labels), weighted=weighted, crops=settings.crops)


def _with_progress(blocks: Iterator[Block], advance: Callable[[int], None]) -> Iterator[Block]:
    for block in blocks:
        yield block
        advance(len(block))
