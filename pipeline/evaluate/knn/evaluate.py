"""Nearest neighbour and weighted k-NN on the features of view 0, from one search of the training images."""

import logging
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from compress_ssl.pipeline.common.device import all_devices
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.settings import Settings
from compress_ssl.pipeline.evaluate.feature_source import FeatureSource
from compress_ssl.pipeline.evaluate.features import StoredFeatures
from compress_ssl.pipeline.evaluate.knn.accuracy import (
    NearestNeighbourResult,
    WeightedKnnResult,
    few_labels_accuracy,
    nearest_neighbour_accuracy,
    weighted_knn_accuracy,
)
from compress_ssl.pipeline.evaluate.knn.crops import CropMeans
from compress_ssl.pipeline.evaluate.knn.search import nearest_neighbours
from compress_ssl.pipeline.evaluate.settings import DEFAULT_VOTE_TEMPERATURE, KnnSettings

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


def evaluate_knn(settings: KnnSettings, source: FeatureSource, progress: Progress) -> KnnResult:
    """Score by nearest neighbour and by the weighted vote of k neighbours.

    Raises:
        InputError: If an image has no label, a feature is not finite, or there are too few training images.
    """
    store = source.features() if settings.crops == 1 else source.crops(training=True)
    features = StoredFeatures if settings.crops == 1 else CropMeans
    train = features("training", store[settings.train_split])
    test = features("test", store[settings.test_split]).in_memory()
    counts = _neighbour_counts(settings, len(train.labels))
    few_labels = [
        few_labels_accuracy(
            train.rows, train.labels, test, count, draws=settings.draws, seed=settings.seed, device=source.device
        )
        for count in sorted(set(settings.labels_per_class))
    ]
    with progress.track("search", len(train.labels)) as advance:
        bank = _with_progress(train.blocks(), advance)
        found = nearest_neighbours(bank, test.features, max([1, *counts]), devices=all_devices(source.device))
    return KnnResult(
        nearest=(nearest_neighbour_accuracy(found, train.labels, test.labels), *few_labels),
        weighted=tuple(
            weighted_knn_accuracy(
                found, train.labels, test.labels, neighbours=count, temperature=settings.knn_temperature
            )
            for count in counts
        ),
        crops=settings.crops,
    )


def _neighbour_counts(settings: KnnSettings, train_images: int) -> list[int]:
    """Return the numbers of neighbours; too many are an error only if the user gave them."""
    counts = sorted(set(settings.neighbours))
    for count in counts:
        if count > train_images and "neighbours" in settings.model_fields_set:
            raise InputError(
                f"--neighbours {count} is more than the {train_images} training images of split "
                f"{settings.train_split}; give fewer."
            )
        if count > train_images:
            logger.info("There are %d training images; k-NN %d is left out.", train_images, count)
    return [count for count in counts if count <= train_images]


def _with_progress(blocks: Iterator[Block], advance: Callable[[int], None]) -> Iterator[Block]:
    for block in blocks:
        yield block
        advance(len(block))
