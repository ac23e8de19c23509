"""Nearest neighbour from all labels and from a few, and what cannot be scored."""

import numpy as np
import pytest

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.evaluate.features import Features, check_finite, check_labels
from compress_ssl.pipeline.evaluate.knn.accuracy import (
    NearestNeighbourResult,
    few_labels_accuracy,
    nearest_neighbour_accuracy,
)
from compress_ssl.pipeline.evaluate.knn.search import Neighbours, nearest_neighbours


def unbalanced(seed: int, count: int = 120) -> Features:
    """Three classes, half of the images in the first; features that say a little of the class."""
    generator = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], [count // 2, count // 3, count - count // 2 - count // 3]).astype(np.int32)
    labels = generator.permutation(labels)
    features = np.eye(8)[labels] + 0.8 * generator.normal(size=(count, 8))
    return Features(features.astype(np.float16), labels)


def few(train: Features, test: Features, labels_per_class: int, *, draws: int, seed: int) -> NearestNeighbourResult:
    features = train.features.__getitem__
    return few_labels_accuracy(features, train.labels, test, labels_per_class, draws=draws, seed=seed)


def class_of_the_nearest(train: Features, query: np.ndarray) -> int:
    best, label = -2.0, -1
    for row, other in enumerate(train.features.astype(np.float64)):
        cosine = float(query @ other / np.linalg.norm(query) / np.linalg.norm(other))
        if cosine > best:
            best, label = cosine, int(train.labels[row])
    return label


def test_accuracy_is_that_of_a_loop_over_every_pair() -> None:
    train, test = unbalanced(0), unbalanced(1, 60)
    found = nearest_neighbours(train.features, test.features, 1)
    result = nearest_neighbour_accuracy(found, train.labels, test.labels)
    right = [
        class_of_the_nearest(train, query) == label
        for query, label in zip(test.features.astype(np.float64), test.labels, strict=True)
    ]
    assert result.top1_percent == pytest.approx(100 * np.mean(right))
    assert result.draws == (result.top1_percent,)
    assert (result.labels_per_class, result.train_images, result.test_images) == (None, 120, 60)


def test_of_four_images_three_are_right() -> None:
    # Nearest rows 2, 0, 1, 1 have the classes 5, 3, 4, 4.
    found = Neighbours(np.ones((4, 1), np.float32), np.array([[2], [0], [1], [1]]))
    result = nearest_neighbour_accuracy(found, np.array([3, 4, 5]), np.array([5, 3, 4, 3]))
    assert result.top1_percent == 75.0


def test_every_class_has_as_many_labels_and_every_draw_its_own() -> None:
    """Images that say their own row: a test image is right if, and only if, its row was drawn."""
    labels = np.array([0] * 30 + [1] * 11 + [2] * 19, np.int32)
    itself = Features(np.eye(60, dtype=np.float16), np.arange(60, dtype=np.int32))
    for per_class in (1, 4, 11):
        drawn = few(Features(itself.features, labels), Features(itself.features, labels), per_class,
                                    draws=6, seed=3)  # fmt: skip
        # A row that was drawn finds itself. One that was not has cosine 0 with all and gets the first, of class 0.
        expected = 100 * (3 * per_class + (30 - per_class)) / 60
        assert drawn.draws == pytest.approx([expected] * 6)
        assert drawn.top1_percent == pytest.approx(expected)
        assert drawn.labels_per_class == per_class


def test_draws_are_the_same_again_and_other_with_another_seed() -> None:
    train, test = unbalanced(2), unbalanced(3)
    first = few(train, test, 2, draws=8, seed=1)
    assert few(train, test, 2, draws=8, seed=1) == first
    assert few(train, test, 2, draws=3, seed=1).draws == first.draws[:3]
    assert few(train, test, 2, draws=8, seed=2).draws != first.draws
    assert len(set(first.draws)) > 1
    assert first.top1_percent == pytest.approx(np.mean(first.draws))


def test_draws_do_not_depend_on_the_features() -> None:
    """Networks are compared on the same labelled images."""
    train, test = unbalanced(2), unbalanced(3)
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    rotated = [Features(images.features.astype(np.float64) @ turned, images.labels) for images in (train, test)]
    draws = few(train, test, 2, draws=4, seed=1).draws
    assert few(*rotated, 2, draws=4, seed=1).draws == pytest.approx(draws)


def test_all_labels_of_a_balanced_set_are_no_draw() -> None:
    labels = np.tile(np.arange(4, dtype=np.int32), 10)
    train = Features(np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32), labels)
    test = Features(np.random.default_rng(1).normal(size=(30, 8)).astype(np.float32), labels[:30])
    found = nearest_neighbours(train.features, test.features, 1)
    everything = nearest_neighbour_accuracy(found, train.labels, test.labels).top1_percent
    assert few(train, test, 10, draws=3, seed=0).draws == (everything,) * 3


def test_class_with_too_few_images_is_named() -> None:
    train = unbalanced(0)
    with pytest.raises(InputError, match=r"Class 2 has 20 training images, fewer than the 21 labels per class; lower"):
        few(train, train, 21, draws=1, seed=0)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_numbers_are_named_by_their_row_in_the_store(broken: float) -> None:
    features = np.ones((3, 2), np.float16)
    check_finite("test", features, np.array([4, 7, 9]))
    features[1, 1] = broken
    with pytest.raises(InputError, match="The test features of row 7 are not finite; embed again"):
        check_finite("test", features, np.array([4, 7, 9]))


def test_image_without_label_is_named() -> None:
    with pytest.raises(
        InputError, match="The training image in row 2 has no label, and the evaluation needs one; sort"
    ):
        check_labels("training", np.array([0, 1, -1, -1], np.int32))


def test_no_image_at_all_is_an_error() -> None:
    with pytest.raises(InputError, match="There is no test image to evaluate on"):
        check_labels("test", np.zeros(0, np.int32))
