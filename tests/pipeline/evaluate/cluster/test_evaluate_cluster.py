"""Cluster alignment: the mapping against an explicit table, the clustering, the stage, what it refuses."""

import itertools
import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from scipy.optimize import linear_sum_assignment

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.k_means import k_means, nearest_centroids
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.evaluate.cluster.alignment import Clustering, align_clusters, score_clustering
from compress_ssl.pipeline.evaluate.cluster.evaluate import ClusterResult, check_memory
from compress_ssl.pipeline.evaluate.run import evaluate
from compress_ssl.pipeline.evaluate.settings import ClusterSettings
from compress_ssl.storage import open_store

MACHINE: dict[str, Any] = {"size": 16, "resize": 17, "device": "cpu", "threads": 1, "renderer": "torchvision"}

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


def blobs(seed: int, count: int, classes: int = 6, features: int = 5) -> tuple[Floats, Integers]:
    """Classes of unequal size that overlap."""
    centres = np.random.default_rng(99).normal(size=(classes, features))
    generator = np.random.default_rng(seed)
    labels = generator.choice(classes, count, p=np.arange(1, classes + 1) / sum(range(1, classes + 1)))
    rows = centres[labels] + 0.6 * generator.normal(size=(count, features))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def clustered(train: Floats, test: Floats, clusters: int, *, seed: int = 1234, **given: int) -> Clustering:
    rows, queries, cpu = torch.from_numpy(train), torch.from_numpy(test), torch.device("cpu")
    found = k_means(rows, clusters, seed, cpu, **given)
    return Clustering(found.nearest.numpy(), nearest_centroids(queries, found.centroids, cpu).numpy())


def accuracy_by_sets(clustering: Clustering, train_labels: Integers, test_labels: Integers, clusters: int) -> float:
    """The protocol word for word: sets of images, a table of shares, scipy's assignment, images in common."""
    classes = sorted(set(train_labels.tolist()))
    cost = [[0.0] * len(classes) for _ in range(clusters)]
    for cluster in range(clusters):
        members = {row for row in range(len(train_labels)) if clustering.train[row] == cluster}
        for column, name in enumerate(classes):
            of_class = {row for row in range(len(train_labels)) if train_labels[row] == name}
            cost[cluster][column] = -len(members & of_class) / len(members) if members else 0.0
    answer = {cluster: classes[column] for cluster, column in zip(*linear_sum_assignment(np.array(cost)), strict=True)}
    right = 0
    for row, label in enumerate(test_labels):
        right += answer.get(int(clustering.test[row])) == label
    return 100 * right / len(test_labels)


@pytest.mark.parametrize("clusters", [2, 6, 9, 40])
@pytest.mark.parametrize("seed", [0, 1234])
def test_accuracy_is_that_of_sets_and_an_explicit_table(clusters: int, seed: int) -> None:
    (train, train_labels), (test, test_labels) = blobs(0, 300), blobs(1, 120)
    clustering = clustered(train, test, clusters, seed=seed)
    result = score_clustering(clustering, train_labels, test_labels, clusters, seed)
    assert result.top1_percent == pytest.approx(accuracy_by_sets(clustering, train_labels, test_labels, clusters))
    on_itself = Clustering(clustering.train, clustering.train)
    assert result.train_top1_percent == pytest.approx(accuracy_by_sets(on_itself, train_labels, train_labels, clusters))


@pytest.mark.parametrize("seed", range(5))
def test_mapping_is_the_best_of_all_permutations(seed: int) -> None:
    generator = np.random.default_rng(seed)
    cluster, labels = generator.integers(0, 5, 60), generator.integers(0, 5, 60)

    def total(mapping: tuple[int, ...]) -> float:
        return sum(float(np.mean(labels[cluster == c] == mapping[c])) for c in range(5))

    found = align_clusters(cluster, labels, 5)
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert total(tuple(found)) == pytest.approx(max(map(total, itertools.permutations(range(5)))))


def test_shares_count_not_numbers_of_images() -> None:
    # Cluster 0 has six images of class 0 and four of class 1; cluster 1 has two and one: by images in common cluster
    # 0 would be class 0 (6 + 1 > 4 + 2); by shares cluster 1 is (4/10 + 2/3 > 6/10 + 1/3).
    cluster = np.repeat([0, 1], [10, 3])
    labels = np.array([0] * 6 + [1] * 4 + [0] * 2 + [1])
    np.testing.assert_array_equal(align_clusters(cluster, labels, 2), [1, 0])


def test_clusters_beyond_the_classes_have_none_and_their_images_are_wrong() -> None:
    cluster = np.array([0, 0, 1, 1, 2, 2, 2, 2])
    labels = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    np.testing.assert_array_equal(align_clusters(cluster, labels, 3), [0, 1, -1])
    assert score_clustering(Clustering(cluster, cluster), labels, labels, 3, 0).top1_percent == 50


def test_empty_clusters_and_absent_classes_are_borne() -> None:
    cluster, labels = np.array([0, 0, 3, 3, 3]), np.array([7, 7, 2, 2, 7])
    result = score_clustering(Clustering(cluster, cluster), labels, labels, 4, 5)
    assert (result.seed, result.empty_clusters, result.top1_percent) == (5, 2, 80)
    mapped = align_clusters(cluster, labels, 4)
    assert (mapped[0], mapped[3]) == (7, 2)
    # The test images have class 1, which no training image has.
    assert score_clustering(Clustering(cluster, cluster[:1]), labels, np.array([1]), 4, 5).top1_percent == 0


def test_mutual_information_and_rand_index_are_those_of_the_formulas() -> None:
    test_labels = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    clusters = np.array([0, 0, 1, 1, 1, 1, 2, 0])
    result = score_clustering(Clustering(clusters, clusters), test_labels, test_labels, 3, 0)
    n = len(clusters)

    def entropy(values: Integers) -> float:
        return -sum(share * math.log(share) for share in np.bincount(values) / n)

    mutual = sum(
        joint * math.log(joint / (np.mean(clusters == a) * np.mean(test_labels == b)))
        for a, b in itertools.product(range(3), range(3))
        if (joint := float(np.mean((clusters == a) & (test_labels == b))))
    )
    assert result.nmi_percent == pytest.approx(200 * mutual / (entropy(clusters) + entropy(test_labels)))
    pairs = list(itertools.combinations(range(n), 2))
    both = sum(clusters[i] == clusters[j] and test_labels[i] == test_labels[j] for i, j in pairs)
    one, other = (sum(values[i] == values[j] for i, j in pairs) for values in (clusters, test_labels))
    expected = one * other / len(pairs)
    assert result.ari_percent == pytest.approx(100 * (both - expected) / ((one + other) / 2 - expected))


def test_perfect_clusters_score_a_hundred_and_chance_little() -> None:
    labels = np.arange(400) % 4
    perfect = Clustering((labels + 1) % 4, (labels + 1) % 4)
    result = score_clustering(perfect, labels, labels, 4, 0)
    assert (result.top1_percent, result.nmi_percent, result.ari_percent) == pytest.approx((100, 100, 100))
    generator = np.random.default_rng(0)
    chance = Clustering(generator.integers(0, 4, 400), generator.integers(0, 4, 400))
    result = score_clustering(chance, labels, labels, 4, 0)
    assert result.top1_percent < 40
    assert max(result.nmi_percent, result.ari_percent) < 5


def test_clustering_is_lloyds_from_faiss_first_centroids() -> None:
    (train, _), (test, _) = blobs(0, 200), blobs(1, 50)
    start = faiss.Clustering(train.shape[1], 6)
    start.niter, start.seed, start.min_points_per_centroid = 0, 7, 1
    start.train(train, faiss.IndexFlatL2(train.shape[1]))
    centroids = faiss.vector_to_array(start.centroids).reshape(6, -1).astype(np.float64)

    def nearest(rows: Floats) -> Integers:
        return np.array([int(np.argmin([np.sum((row - centre) ** 2) for centre in centroids])) for row in rows])

    for _ in range(3):
        assigned = nearest(train)
        assert len(set(assigned)) == 6  # none is empty, which faiss would fill its own way
        centroids = np.stack([train[assigned == cluster].mean(axis=0, dtype=np.float64) for cluster in range(6)])
    ours = clustered(train, test, 6, iterations=3, seed=7)
    np.testing.assert_array_equal(ours.train, nearest(train))
    np.testing.assert_array_equal(ours.test, nearest(test))


def test_every_image_counts_however_many_there_are_of_a_cluster() -> None:
    """Faiss alone takes 256 images a cluster: 512 of these, which know nothing of the few others."""
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(4000, 3)).astype(np.float32)
    clustering = clustered(rows, rows, 2, iterations=50)
    centroids = np.stack([rows[clustering.train == cluster].mean(axis=0) for cluster in (0, 1)])
    again = np.argmin(((rows[:, None] - centroids) ** 2).sum(axis=2), axis=1)
    assert np.mean(again == clustering.train) > 0.995  # a fixed point of all 4,000, not of a sample


def test_restarts_keep_the_tightest_and_seeds_decide() -> None:
    (train, _), (test, _) = blobs(0, 300), blobs(1, 50)

    def spread(clustering: Clustering) -> float:
        return sum(
            float(np.var(train[clustering.train == cluster], axis=0).sum())
            * np.count_nonzero(clustering.train == cluster)
            for cluster in np.unique(clustering.train)
        )

    once, often = clustered(train, test, 12, seed=0), clustered(train, test, 12, seed=0, restarts=20)
    assert spread(often) < spread(once)
    np.testing.assert_array_equal(clustered(train, test, 12, seed=0).train, once.train)
    assert (clustered(train, test, 12, seed=4).train != once.train).any()


def test_rows_that_are_all_the_same_are_borne() -> None:
    same = np.ones((10, 4), np.float32)
    clustering = clustered(same, same[:3], 3)
    labels = np.arange(10) % 3
    result = score_clustering(clustering, labels, labels[:3], 3, 0)
    assert result.empty_clusters == 2
    assert 0 <= result.top1_percent <= 100


def settings_of(images: Path, **given: Any) -> ClusterSettings:
    values = {"model": "random/conv4-16", "data": images, "output": images.parent / "out", **MACHINE}
    return ClusterSettings(**{**values, **given})


def score(images: Path, **given: Any) -> ClusterResult:
    result = evaluate(settings_of(images, **given), Silent()).result
    assert isinstance(result, ClusterResult)
    return result


def test_stage_scores_normalised_features_of_view_0_by_the_mean_of_its_seeds(data: Path) -> None:
    result = score(data, seeds=(0, 1, 2), clusters=3, restarts=2)
    written = json.loads((data.parent / "out" / "cluster.json").read_text())
    assert written["scores"] == {"CA": result.top1_percent, "NMI": result.nmi_percent, "ARI": result.ari_percent}
    assert (result.clusters, result.classes, result.train_images, result.test_images) == (3, 2, 30, 12)
    store = open_store(data.parent / "out" / "features.zarr")
    train, test = (store[name].view(0).astype(np.float64) for name in ("train", "val"))
    train, test = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (train, test))
    labels, test_labels = (store[name].samples.label.astype(np.int64) for name in ("train", "val"))
    expected = []
    for seed in (0, 1, 2):
        clustering = clustered(train.astype(np.float32), test.astype(np.float32), 3, seed=seed, restarts=2)
        expected.append(accuracy_by_sets(clustering, labels, test_labels, 3))
    assert [each.top1_percent for each in result.clusterings] == pytest.approx(expected)
    assert result.top1_percent == pytest.approx(np.mean(expected))
    assert not list((data.parent / "out").glob("*.png"))
    assert score(data, seeds=(0, 1, 2), clusters=3, restarts=2) == result


def test_pictures_are_drawn_from_the_images_and_not_from_a_store_without_them(
    data: Path, teacher: Path, caplog: pytest.LogCaptureFixture
) -> None:
    score(data, pictures=True, rows=2, columns=4)
    pictures = sorted((data.parent / "out").glob("*.png"))
    assert [path.name for path in pictures] == ["cluster-confusion.png", "cluster-images.png", "cluster-sizes.png"]
    with Image.open(data.parent / "out" / "cluster-images.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] == 4 * 100 + 4
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000  # noise of the images
    shutil.rmtree(data)
    score(data, data=None, model=str(teacher), output=data.parent / "of-store", pictures=True)
    assert sorted(path.name for path in (data.parent / "of-store").glob("*.png")) == [
        "cluster-confusion.png",
        "cluster-sizes.png",
    ]
    assert "a store has none; give the dataset with --data" in caplog.text


def test_more_clusters_than_images_is_one_sentence(data: Path) -> None:
    with pytest.raises(InputError, match=r"There are 30 training images, fewer than the 31 clusters; lower --clusters"):
        score(data, clusters=31)
    assert not (data.parent / "out" / "cluster.json").exists()


def test_one_class_is_one_sentence(data: Path) -> None:
    for split in ("train", "val"):
        shutil.rmtree(data / split / "pear")
    with pytest.raises(
        InputError, match=r"All training images are of one class \('apple'\); cluster alignment needs two"
    ):
        score(data)


def test_what_it_holds_in_memory_is_said_and_refused_where_it_does_not_fit(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        check_memory(1_331_167, 8192, 2.0**36)
    assert caplog.messages == [
        "k-means keeps all features in memory: 1,331,167 images of 8,192 features in float32, 40.6 GiB."
    ]
    with pytest.raises(
        InputError, match=r"in float32, 40.6 GiB, and 32.0 GiB are available; use a machine with more, or fewer"
    ):
        check_memory(1_331_167, 8192, 2.0**35)


def test_image_without_a_label_is_refused(data: Path) -> None:
    for split in ("train", "val"):
        for file in sorted((data / split).glob("*/*.png")):
            file.rename(data / split / f"{file.parent.name}{file.name}")
        for folder in ("apple", "pear"):
            (data / split / folder).rmdir()
    with pytest.raises(InputError, match="The training image in row 0 has no label"):
        score(data)


@pytest.mark.parametrize("wrong", [{"clusters": 1}, {"seeds": ()}, {"seeds": (2**31,)}, {"iterations": 0}])
def test_settings_that_make_no_sense_are_refused(data: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings_of(data, **wrong)
