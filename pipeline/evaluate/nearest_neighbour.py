"""Nearest neighbour: the class of the most similar training image (CompRess, section 4.1).

Exact, k = 1, cosine similarity of the features of the evaluation view. With ``labels_per_class`` only so many
training images of each class are labelled, drawn several times. The bank is streamed in blocks, so memory does
not grow with it.

Letters: N training images, M test images, D features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import faiss
import numpy as np

from pipeline.errors import InputError
from pipeline.settings import Settings

if TYPE_CHECKING:
    import numpy.typing as npt

BANK_BLOCK_ROWS = 65_536


class NearestNeighbourResult(Settings):
    """Top-1 accuracy, in percent."""

    top1_percent: float
    """Mean over the draws."""
    labels_per_class: int | None
    """Labelled training images of each class; all of them where it is None."""
    draws: tuple[float, ...]
    """Top-1 of each draw of labelled images; one where all are labelled."""
    train_images: int
    test_images: int


def nearest_neighbour_accuracy(
    train_features: npt.NDArray[np.floating],
    train_labels: npt.NDArray[np.integer],
    test_features: npt.NDArray[np.floating],
    test_labels: npt.NDArray[np.integer],
    *,
    labels_per_class: int | None = None,
    draws: int = 1,
    seed: int = 0,
    on_gpu: bool = False,
) -> NearestNeighbourResult:
    """Evaluate features by their nearest neighbour.

    Parameters
    ----------
    train_features, test_features : float arrays of shape (N, D) and (M, D)
        Need not be normalised.
    train_labels, test_labels : int arrays of shape (N,) and (M,)
    labels_per_class : int, optional
        Label only this many training images of each class.
    draws : int
        How often to draw them.
    seed : int
        Draws them.
    on_gpu : bool
        Search on the GPU.

    Raises
    ------
    InputError
        If features or labels are missing or broken; names the row.
    """
    _check("training", train_features, train_labels)
    _check("test", test_features, test_labels)
    queries = _normalised(test_features)
    if labels_per_class is None:
        labelled = [(train_features, train_labels)]
    else:
        subsets = [_balanced_subset(train_labels, labels_per_class, seed, draw) for draw in range(draws)]
        labelled = [(train_features[rows], train_labels[rows]) for rows in subsets]
    accuracies = [
        100 * float(np.mean(labels[nearest_rows(features, queries, on_gpu=on_gpu)] == test_labels))
        for features, labels in labelled
    ]
    return NearestNeighbourResult(
        top1_percent=float(np.mean(accuracies)),
        labels_per_class=labels_per_class,
        draws=tuple(accuracies),
        train_images=len(train_labels),
        test_images=len(test_labels),
    )


def nearest_rows(
    bank: npt.NDArray[np.floating], queries: npt.NDArray[np.float32], *, on_gpu: bool = False
) -> npt.NDArray[np.int64]:
    """Row (M,) of the bank (N, D) with the largest cosine to each normalised query (M, D)."""
    best = np.full(len(queries), -np.inf, np.float32)
    nearest = np.zeros(len(queries), np.int64)
    resources = faiss.StandardGpuResources() if on_gpu else None
    for start in range(0, len(bank), BANK_BLOCK_ROWS):
        block = _normalised(bank[start : start + BANK_BLOCK_ROWS])
        if resources is None:
            similarity, row = faiss.knn(queries, block, 1, faiss.METRIC_INNER_PRODUCT)
        else:
            similarity, row = faiss.knn_gpu(resources, queries, block, 1, metric=faiss.METRIC_INNER_PRODUCT)
        better = similarity[:, 0] > best
        best[better] = similarity[better, 0]
        nearest[better] = start + row[better, 0]
    return nearest


def _normalised(features: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    single = np.ascontiguousarray(features, np.float32)
    length = np.linalg.norm(single, axis=1, keepdims=True)
    normalised: npt.NDArray[np.float32] = single / np.maximum(length, np.finfo(np.float32).tiny)
    return normalised


def _balanced_subset(labels: npt.NDArray[np.integer], per_class: int, seed: int, draw: int) -> npt.NDArray[np.int64]:
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, draw], np.uint64)))
    chosen = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) < per_class:
            raise InputError(
                f"Class {label} has {len(rows)} training images, fewer than the {per_class} labels a class asked for; "
                "ask for fewer."
            )
        chosen.append(generator.choice(rows, per_class, replace=False))
    return np.sort(np.concatenate(chosen))


def _check(name: str, features: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> None:
    if len(features) == 0:
        raise InputError(f"There is no {name} image to evaluate on.")
    if (labels < 0).any():
        raise InputError(
            f"The {name} image in row {int(np.flatnonzero(labels < 0)[0])} has no label; nearest neighbour needs a "
            "folder a class."
        )
    broken = ~np.isfinite(features).all(axis=1)
    if broken.any():
        raise InputError(f"The {name} features of row {int(np.flatnonzero(broken)[0])} are not numbers; embed again.")
