"""Nearest neighbour while training, against features computed one image at a time from the files."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as F

from compress_ssl.pipeline.common.errors import InputError, RunError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.common.settings import ImageSelection
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.evaluate.knn.live import LiveNearestNeighbour
from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.images.rendering import RenderJob
from compress_ssl.pipeline.networks.network import Network, load_network

Score = Callable[[Network], dict[str, float]]


def small_network(seed: int = 0) -> Network:
    network = load_network("random/conv4-16", seed)
    network.module.train()
    return replace(network, preprocessing=replace(network.preprocessing, size=16, resize=17))


def live(data: Path, **given: Any) -> Score:
    renderer = given.pop("renderer", make_renderer("torchvision", torch.device("cpu"), 1))
    return LiveNearestNeighbour(
        data, data.parent / "run", renderer=renderer, threads=1, progress=Silent(), **{"batch_size": 7, **given}
    )


def one_image_at_a_time(data: Path, network: Network, every: dict[str, slice]) -> float:
    """Top-1 in percent, with Pillow, torchvision and a loop over every pair."""
    features, labels = {}, {}
    network.module.eval()
    for split, rows in every.items():
        files = sorted((data / split).glob("*/*.png"))[rows]
        labels[split] = [file.parent.name for file in files]
        images = [F.center_crop(F.resize(Image.open(file), 17), [16, 16]) for file in files]
        with torch.no_grad():
            features[split] = torch.cat([network.features(torch.from_numpy(np.array(image))[None]) for image in images])
    network.module.train()
    right = 0
    for query, label in zip(features["val"].double(), labels["val"], strict=True):
        cosines = torch.cosine_similarity(features["train"].double(), query[None])
        right += labels["train"][int(cosines.argmax())] == label
    return 100 * right / len(labels["val"])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_score_is_that_of_one_image_at_a_time(data: Path, seed: int) -> None:
    network = small_network(seed)
    score = live(data)(network)
    assert score == {"nn_top1_percent": one_image_at_a_time(data, network, {"train": slice(None), "val": slice(None)})}
    assert 50 < score["nn_top1_percent"] < 100  # of two classes: some of it was seen, not all


def test_images_are_evenly_spaced_and_no_more_than_asked_for(data: Path) -> None:
    network = small_network()
    # Of 30 and 12 rows the evenly spaced 6 are every fifth and every second.
    expected = one_image_at_a_time(data, network, {"train": slice(None, None, 5), "val": slice(None, None, 2)})
    assert live(data, limit=6)(network) == {"nn_top1_percent": expected}


def test_splits_of_a_store_are_taken_without_looking_at_the_files(data: Path, teacher: Path) -> None:
    network = small_network()
    shutil.rmtree(data.parent / "index")
    assert live(data, store=teacher, limit=6)(network) == live(data, limit=6)(network)
    shutil.rmtree(data.parent / "index")
    live(data, store=teacher, limit=6)
    assert not (data.parent / "index").exists()


def test_split_that_the_store_lacks_is_a_folder_of_the_data_set(data: Path) -> None:
    store = data.parent / "teacher.zarr"
    embed(
        EmbedSettings(data=data, store=store, teacher="random/conv4-16", split=("train",), views=1, size=8, resize=8,
                      block_rows=30, device="cpu", threads=1, renderer="torchvision"),
        Silent(),
    )  # fmt: skip
    assert live(data, store=store)(small_network()) == live(data)(small_network())


def test_network_and_random_numbers_are_left_as_they_were(data: Path) -> None:
    network = small_network()
    frozen = next(layer for layer in network.module.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    frozen.eval()  # by design of whoever trains it
    weights = {key: value.clone() for key, value in network.module.state_dict().items()}
    modes = {name: layer.training for name, layer in network.module.named_modules()}
    gradients = [weight.requires_grad for weight in network.module.parameters()]
    state = torch.get_rng_state()
    score = live(data)
    first = score(network)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: layer.training for name, layer in network.module.named_modules()} == modes
    assert [weight.requires_grad for weight in network.module.parameters()] == gradients
    for key, value in network.module.state_dict().items():
        torch.testing.assert_close(value, weights[key], rtol=0, atol=0)
    assert score(network) == first == live(data)(network)


def test_network_can_be_trained_on_after_a_score(data: Path) -> None:
    network, alone = small_network(), small_network()
    score = live(data)
    images = torch.randint(0, 255, (4, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for scored in (network, alone):
        optimizer = torch.optim.SGD(scored.module.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            scored.features(images).square().sum().backward()
            optimizer.step()
            if scored is network:
                score(scored)
    for ours, theirs in zip(network.module.parameters(), alone.module.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


class Counting:
    """The reference renderer, with a count of the jobs it has done."""

    def __init__(self) -> None:
        self.real = make_renderer("torchvision", torch.device("cpu"), 1)
        self.name, self.device, self.jobs = self.real.name, self.real.device, 0

    def geometry(self, batches: Iterable[RenderJob], batch_size: int) -> Any:
        self.jobs += 1
        return self.real.geometry(batches, batch_size)


@pytest.mark.parametrize(("cached_pixel_bytes", "jobs"), [(42 * 3 * 16 * 16, 2), (42 * 3 * 16 * 16 - 1, 6)])
def test_views_are_rendered_once_if_they_are_small(data: Path, cached_pixel_bytes: int, jobs: int) -> None:
    renderer = Counting()
    score = live(data, renderer=renderer, cached_pixel_bytes=cached_pixel_bytes)
    assert len({tuple(score(small_network()).items()) for _ in range(3)}) == 1
    assert renderer.jobs == jobs


def test_another_network_is_another_score_from_the_same_pixels(data: Path) -> None:
    score = live(data)
    scores = [score(small_network(seed))["nn_top1_percent"] for seed in range(5)]
    assert scores == [live(data)(small_network(seed))["nn_top1_percent"] for seed in range(5)]
    assert len(set(scores)) > 1


def test_images_without_labels_or_of_other_classes_are_refused_before_training(data: Path) -> None:
    (data / "flat").mkdir()
    for number, file in enumerate(sorted((data / "val").glob("*/*.png"))):
        shutil.copy(file, data / "flat" / f"{number}.png")
    with pytest.raises(InputError, match="The flat image in row 0 has no label"):
        live(data, test_split="flat")
    (data / "val" / "pear").rename(data / "val" / "plum")
    with pytest.raises(InputError, match="Splits train and val have different classes; both need the same"):
        live(data)
    with pytest.raises(InputError, match=r"has no folder 'test'"):
        live(data, test_split="test")


def test_bad_images_are_left_out_if_they_are_to_be(data: Path) -> None:
    (data / "val" / "pear" / "00.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"pear/00.png' cannot be decoded"):
        live(data)
    score = live(data, selection=ImageSelection(on_bad_image="skip"))(small_network())
    assert score["nn_top1_percent"] * 11 / 100 == pytest.approx(round(score["nn_top1_percent"] * 11 / 100))


def test_features_that_are_not_numbers_end_the_run(data: Path) -> None:
    network = small_network()
    with torch.no_grad():
        next(network.module.parameters()).fill_(torch.nan)
    with pytest.raises(RunError, match="features of the evaluation view are not finite; lower --learning-rate"):
        live(data)(network)
    assert network.module.training
