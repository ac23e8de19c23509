"""evaluate --patch-mean: the mean of an image's patches is scored, as plain zarr and numpy compute it."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr
from PIL import Image

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.evaluate.patch_means import PatchMeans
from compress_ssl.pipeline.evaluate.results_table import results_table
from compress_ssl.pipeline.evaluate.run import evaluate, evaluate_with_baselines
from compress_ssl.pipeline.evaluate.settings import (
    ClusterSettings,
    EvaluateSettings,
    KnnSettings,
    LinearSettings,
    LowShotSettings,
)
from compress_ssl.storage import open_store

TEACHER: dict[str, Any] = {
    "teacher": "random/timm/test_vit", "size": 32, "resize": 32, "device": "cpu", "threads": 1,
    "renderer": "torchvision", "batch_size": 64, "block_rows": 16, "on_bad_image": "skip",
}  # fmt: skip


def write_images(folder: Path) -> Path:
    """33 images in ``train``, one of them bad, 12 in ``val``; of two classes, of which one is redder."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 6)):
        for name, redness in (("apple", 28), ("pear", 0)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 200, (18, 24, 3)) + np.array([redness, 0, 0])
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name / f"{number:02d}.png")
    (folder / "train/apple/05a.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("patch-means") / "data")


@pytest.fixture(scope="module")
def store(images: Path) -> Path:
    """View 0 and one of two random views of ``train`` have patches."""
    given: dict[str, Any] = {"split": ("train:2", "val:0"), "patches": 8, "patch_views": 1, **TEACHER}
    return Path(str(embed(EmbedSettings(data=images, store=images.parent / "teacher.zarr", **given), Silent()).path))


def means(store: Path, split: str, view: int = 0) -> npt.NDArray[np.float64]:
    """Of the good images, by the formula of docs/store-format.md."""
    group = zarr.open_group(str(store), mode="r")[split]
    components = group["patches"][view] * group["patch_scale"][view].astype(np.float64)[..., None]
    channels = group["patch_mean"][:].astype(np.float64) + components @ group["patch_basis"][:].astype(np.float64)
    averaged: npt.NDArray[np.float64] = channels[group["status"][:] == 0].mean(axis=1)
    return averaged


def unit(rows: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    lengths: npt.NDArray[np.floating] = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / lengths


def test_the_means_are_those_of_plain_zarr(store: Path) -> None:
    split = open_store(store)["train"]
    assert not split.samples.good.all()
    for view in (0, 1):
        found, wanted = PatchMeans("training", split, view), means(store, "train", view)
        np.testing.assert_allclose(found.in_memory().features, wanted, atol=1e-5)
        np.testing.assert_allclose(np.concatenate(list(found.blocks())), wanted, atol=1e-5)
        np.testing.assert_allclose(found.rows(np.array([30, 4, 5, 4])), wanted[[30, 4, 5, 4]], atol=1e-5)


def test_neighbours_are_searched_among_the_means_and_tables_say_so(store: Path, tmp_path: Path) -> None:
    train, test = (open_store(store)[name].samples for name in ("train", "val"))
    nearest = (unit(means(store, "val")) @ unit(means(store, "train")).T).argmax(axis=1)
    wanted = 100 * float(np.mean(train.label[train.good][nearest] == test.label))
    paths = [
        evaluate(KnnSettings(model=str(store), output=tmp_path / str(mean), patch_mean=mean), Silent()).path
        for mean in (False, True)
    ]
    record = json.loads(paths[1].read_text())
    assert record["result"]["nearest"][0]["top1_percent"] == pytest.approx(wanted)
    assert record["settings"]["patch_mean"] is True
    assert record["network"]["pool"] == "patches"
    assert [row[0] for row in results_table(paths).rows] == [
        f"timm/test_vit, untrained{what}" for what in ("", ", mean of patches")
    ]


def test_random_views_with_patches_are_trained_on(store: Path, tmp_path: Path, caplog: Any) -> None:
    few = {"epochs": 2, "device": "cpu", "threads": 1}
    caplog.set_level(logging.INFO)
    settings: list[EvaluateSettings] = [
        LinearSettings(model=str(store), output=tmp_path, patch_mean=True, **few),
        LowShotSettings(model=str(store), output=tmp_path, patch_mean=True, percent=(50.0,), **few),
        ClusterSettings(model=str(store), output=tmp_path, patch_mean=True),
    ]
    linear, low_shot, cluster = (evaluate(each, Silent()).result for each in settings)
    assert "has 1 random views with patches; all of them are used" in caplog.text
    assert (linear.views, low_shot.views) == (1, 1)
    assert (linear.train_images, low_shot.subsets[0].train_images, cluster.train_images) == (32, 16, 32)


def test_with_all_components_the_means_are_near_the_average_pool(images: Path, store: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"data": images, "split": ("train:0", "val:0"), **TEACHER}
    averaged = embed(EmbedSettings(store=tmp_path / "avg.zarr", pool="avg", **given), Silent())
    every = embed(EmbedSettings(store=tmp_path / "all.zarr", patches=64, **given), Silent())
    for name in ("train", "val"):
        split = averaged[name]
        pooled = split.view(0).astype(np.float32)[split.samples.good]
        patches = PatchMeans("some", every[name]).in_memory().features
        assert (unit(pooled) * unit(patches)).sum(axis=1).min() > 0.999


def test_what_has_no_patches_is_refused_in_a_sentence(images: Path, store: Path, tmp_path: Path) -> None:
    def refused(message: str, settings: EvaluateSettings) -> None:
        with pytest.raises(InputError, match=message):
            evaluate(settings, Silent())

    plain = tmp_path / "plain.zarr"
    embed(EmbedSettings(data=images, store=plain, split=("train:0", "val:0"), **TEACHER), Silent())
    refused("View 0 of split train of .*plain.* has no patches", KnnSettings(model=str(plain), patch_mean=True))
    two_views = LinearSettings(model=str(store), output=tmp_path, patch_mean=True, views=2)
    refused("View 2 of split train of .* has no patches, and --patch-mean averages them", two_views)
    network = KnnSettings(model="random/timm/test_vit", data=images, output=tmp_path, patch_mean=True)
    refused("'random/timm/test_vit' is none; give a store made with --patches", network)
    with pytest.raises(InputError, match="--baseline random is a network; leave one of them out"):
        next(evaluate_with_baselines(KnnSettings(model=str(store), data=images, patch_mean=True), ["random"], Silent()))
