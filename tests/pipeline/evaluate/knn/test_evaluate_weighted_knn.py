"""The weighted vote, against the equation in a loop and against scikit-learn."""

import itertools
import math
import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.neighbors import KNeighborsClassifier

from compress_ssl.pipeline.evaluate.features import Features
from compress_ssl.pipeline.evaluate.knn.accuracy import nearest_neighbour_accuracy, weighted_knn_accuracy, weighted_vote
from compress_ssl.pipeline.evaluate.knn.search import nearest_neighbours


def clusters(count: int, classes: int, seed: int, spread: float = 1.5) -> Features:
    """Noisy features around one centre a class; the centres are the same for every seed."""
    centres = np.random.default_rng(99).normal(size=(classes, 16))
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    return Features(
        (centres[labels] + spread * generator.normal(size=(count, 16))).astype(np.float16), labels.astype(np.int32)
    )


def vote_in_a_loop(train: Features, test: Features, k: int, temperature: float) -> list[int]:
    """Wu et al. 2018, section 3.4, with plain Python numbers; of equal sums the smallest class wins."""
    bank = train.features.astype(np.float64)
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    answers = []
    for query in test.features.astype(np.float64):
        cosines = (bank @ (query / np.linalg.norm(query))).tolist()
        nearest = sorted(range(len(cosines)), key=lambda row: (-cosines[row], row))[:k]
        votes: dict[int, float] = {}
        for row in nearest:
            label = int(train.labels[row])
            votes[label] = votes.get(label, 0.0) + math.exp(cosines[row] / temperature)
        answers.append(min(votes, key=lambda label: (-votes[label], label)))
    return answers


def predicted(train: Features, test: Features, k: int, temperature: float) -> npt.NDArray[np.integer]:
    found = nearest_neighbours(train.features, test.features, k, bank_block=37, query_block=29)
    return weighted_vote(found.similarity, train.labels[found.row], temperature)


@pytest.mark.parametrize("temperature", [0.02, 0.07, 1.0])
def test_vote_is_that_of_the_equation_in_a_loop(temperature: float) -> None:
    train, test = clusters(300, 7, 0), clusters(60, 7, 1)
    for k in (1, 5, 20, 200, 300):
        assert predicted(train, test, k, temperature).tolist() == vote_in_a_loop(train, test, k, temperature), k


@pytest.mark.parametrize(("k", "temperature"), list(itertools.product((1, 20, 200), (0.07, 0.5))))
def test_vote_is_that_of_scikit_learn(k: int, temperature: float) -> None:
    train, test = clusters(500, 10, 2), clusters(100, 10, 3)
    classifier = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
    )
    theirs = classifier.fit(train.features.astype(np.float64), train.labels).predict(test.features.astype(np.float64))
    np.testing.assert_array_equal(predicted(train, test, k, temperature), theirs)


def test_one_neighbour_is_the_nearest_neighbour_at_any_temperature() -> None:
    train, test = clusters(200, 5, 4), clusters(50, 5, 5)
    found = nearest_neighbours(train.features, test.features, 20)
    nearest = nearest_neighbour_accuracy(found, train.labels, test.labels).top1_percent
    for temperature in (1e-4, 0.07, 100.0):
        vote = weighted_knn_accuracy(found, train.labels, test.labels, neighbours=1, temperature=temperature)
        assert vote.top1_percent == nearest
    cold = weighted_knn_accuracy(found, train.labels, test.labels, neighbours=20, temperature=1e-6)
    assert cold.top1_percent == nearest


def test_many_weak_votes_beat_one_strong_one_only_when_warm() -> None:
    # exp(0.9 / T) against 3 exp(0.8 / T): the three win while T > 0.1 / ln 3 = 0.091.
    similarity = np.array([[0.9, 0.8, 0.8, 0.8]])
    labels = np.array([[4, 2, 2, 2]])
    assert weighted_vote(similarity, labels, 0.0911).tolist() == [2]
    assert weighted_vote(similarity, labels, 0.0909).tolist() == [4]


def test_of_equal_votes_the_smallest_class_wins() -> None:
    labels = np.array([[7, 3], [3, 7], [9, 9]])
    assert weighted_vote(np.full((3, 2), 0.5), labels, 0.07).tolist() == [3, 3, 9]


def test_blocks_do_not_change_the_vote() -> None:
    generator = np.random.default_rng(6)
    similarity = -np.sort(-generator.uniform(-1, 1, (101, 20)), axis=1)
    labels = generator.integers(0, 30, (101, 20))
    whole = weighted_vote(similarity, labels, 0.07)
    for votes_bytes in (1, 8 * 30 * 7, 8 * 30 * 100):
        np.testing.assert_array_equal(weighted_vote(similarity, labels, 0.07, votes_bytes=votes_bytes), whole)


def test_votes_of_many_classes_stay_within_their_bytes() -> None:
    """20,000 images of 5,000 classes would be 800 MB of votes at once."""
    generator = np.random.default_rng(7)
    similarity = np.ones((20_000, 5), np.float32)
    labels = generator.integers(0, 5000, (20_000, 5)).astype(np.int32)
    tracemalloc.start()
    weighted_vote(similarity, labels, 0.07, votes_bytes=2**22)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6


def test_result_says_what_it_was_made_from() -> None:
    train, test = clusters(200, 5, 4), clusters(50, 5, 5)
    found = nearest_neighbours(train.features, test.features, 20)
    result = weighted_knn_accuracy(found, train.labels, test.labels, neighbours=20, temperature=0.07)
    assert result.model_dump(exclude={"top1_percent"}) == {
        "neighbours": 20,
        "temperature": 0.07,
        "train_images": 200,
        "test_images": 50,
    }
    right = np.array(vote_in_a_loop(train, test, 20, 0.07)) == test.labels
    assert result.top1_percent == pytest.approx(100 * right.mean())
