"""Nearest neighbours with ten crops: the mean direction of the crops' features, of training and test images."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.evaluate.features import StoredFeatures
from compress_ssl.pipeline.evaluate.knn.evaluate import CropMeans
from compress_ssl.pipeline.evaluate.run import evaluate
from compress_ssl.pipeline.evaluate.settings import KnnSettings
from compress_ssl.pipeline.networks.network import load_network, save_network
from compress_ssl.storage import EmbeddingStore, open_store

MACHINE: dict[str, Any] = {"size": 16, "resize": 20, "device": "cpu", "threads": 1, "renderer": "torchvision"}


@pytest.fixture(scope="module")
def store(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    place = tmp_path_factory.mktemp("crops") / "teacher.zarr"
    given: dict[str, Any] = {"policy": "ten-crop", "views": 10, "split": ("train", "val"), "block_rows": 7, **MACHINE}
    return embed(EmbedSettings(data=embedded / "data", store=place, teacher="random/conv4-16", **given), Silent())


def mean_directions(store: EmbeddingStore, split: str) -> npt.NDArray[np.float64]:
    views = np.stack([store[split].view(1 + crop) for crop in range(10)]).astype(np.float64)
    directions: npt.NDArray[np.float64] = (views / np.linalg.norm(views, axis=2, keepdims=True)).mean(axis=0)
    return directions


def scored_by_hand(store: EmbeddingStore) -> float:
    bank, queries = (mean_directions(store, split) for split in ("train", "val"))
    bank, queries = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (bank, queries))
    nearest = (queries @ bank.T).argmax(axis=1)
    return 100 * float(np.mean(store["train"].samples.label[nearest] == store["val"].samples.label))


def test_an_image_is_the_mean_direction_of_its_crops(store: EmbeddingStore) -> None:
    crops = [StoredFeatures("training", store["train"], 1 + crop) for crop in range(10)]
    means, expected = CropMeans(crops), mean_directions(store, "train")
    np.testing.assert_allclose(np.concatenate(list(means.blocks())), expected, atol=1e-6)
    np.testing.assert_allclose(means.in_memory().features, expected, atol=1e-6)
    np.testing.assert_allclose(means.rows(np.array([17, 3, 3])), expected[[17, 3, 3]], atol=1e-6)
    np.testing.assert_array_equal(means.labels, store["train"].samples.label)


def test_a_store_of_ten_crops_is_scored_without_images(store: EmbeddingStore) -> None:
    result = evaluate(KnnSettings(model=str(store.path), crops=10, neighbours=(5,)), Silent()).result
    assert result.nearest[0].top1_percent == pytest.approx(scored_by_hand(store))
    assert list(result.scores()) == ["NN, 10 crops", "k-NN 5, 10 crops"]


def test_a_network_gets_its_crops_from_stage_one(data: Path) -> None:
    run = data.parent / "student"
    run.mkdir()
    save_network(run / MODEL_FILE, load_network("random/conv4-16"))
    result = evaluate(
        KnnSettings(model=str(run), data=data, crops=10, neighbours=(), limit=10, **MACHINE), Silent()
    ).result
    assert result.nearest[0].top1_percent == pytest.approx(scored_by_hand(open_store(run / "crops.zarr")))


def test_random_views_are_no_crops(teacher: Path) -> None:
    sentence = r"Split train of '.*' has 0 ten-crop views, but 10 are needed; embed with --policy ten-crop"
    with pytest.raises(InputError, match=sentence):
        evaluate(KnnSettings(model=str(teacher), crops=10), Silent())
