"""The stage: what it draws, what it learns, what it leaves."""

import json
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.images.data_set import index_data_set
from compress_ssl.pipeline.images.index import ImageIndex
from compress_ssl.pipeline.images.parameters import fresh_parameters
from compress_ssl.pipeline.images.policies import POLICIES
from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.networks.network import load_network, weights_sha256
from compress_ssl.pipeline.pretrain.methods import MoCoV2, SimCLR, Supervised
from compress_ssl.pipeline.pretrain.run import RandomViews, pretrain
from compress_ssl.pipeline.pretrain.settings import OPTIONS, PretrainSettings
from compress_ssl.storage.parameters import COLUMN


def settings_of(data: Path, name: str = "teacher", **given: Any) -> PretrainSettings:
    values: dict[str, Any] = {
        "arch": "conv4-16", "epochs": 2, "batch_size": 16, "size": 16, "resize": 16, "optimizer": "adamw",
        "learning_rate": 0.003, "policy": "crop-flip", "device": "cpu", "threads": 1, "renderer": "torchvision",
    }  # fmt: skip
    return PretrainSettings(data=data, run=data.parent / name, **{**values, **given})


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_loss_falls_and_the_network_changes(data: Path) -> None:
    settings = settings_of(data, epochs=15)
    pretrain(settings, Silent())
    falling = losses(settings.run)
    assert len(falling) == 15
    # Among 2 x 16 views, chance is log 31 = 3.43.
    assert falling[-1] < min(2.6, falling[0] - 0.4)
    before, after = load_network("random/conv4-16"), load_network(str(settings.run))
    assert weights_sha256(before.module) != weights_sha256(after.module)


def test_what_is_left_is_the_network_without_its_head(data: Path) -> None:
    settings = settings_of(data, epochs=1, size=16, resize=18)
    assert pretrain(settings, Silent()) == settings.run / "model.safetensors"
    assert (
        load_file(settings.run / "model.safetensors").keys()
        == load_network("random/conv4-16").module.state_dict().keys()
    )
    network = load_network(str(settings.run))
    assert (network.name, network.architecture) == ("teacher", "conv4-16")
    assert (network.preprocessing.size, network.preprocessing.resize) == (16, 18)


def test_same_seed_gives_the_same_weights_and_another_seed_others(data: Path) -> None:
    hashes = []
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        settings = settings_of(data, name, seed=seed)
        pretrain(settings, Silent())
        hashes.append(weights_sha256(load_network(str(settings.run)).module))
    assert hashes[0] == hashes[1] != hashes[2]
    assert losses(data.parent / "first") == losses(data.parent / "again")


def views_of(index: ImageIndex, settings: PretrainSettings) -> RandomViews:
    return RandomViews(index, settings, make_renderer("torchvision", torch.device("cpu"), 1), views=2, size=16)


def test_every_view_of_every_epoch_is_drawn_anew(data: Path) -> None:
    settings = settings_of(data, policy=POLICIES["moco-v2"])
    index = index_data_set(data, ["train"], settings.run, settings, threads=1, progress=Silent())["train"]
    order, views = np.random.default_rng(0).permutation(32), views_of(index, settings)
    epochs = [views.render_job(epoch, order) for epoch in range(4)]
    parameters = np.concatenate([job.parameters for job in epochs], axis=1)  # (32, 8, P)
    assert parameters.shape[:2] == (32, 8)
    boxes = parameters[:, :, : COLUMN["resize_width"]]
    for row in boxes:
        assert len(np.unique(row, axis=0)) > 4
    # No two of the 8 views are one drawing of all images.
    assert len(np.unique(parameters.reshape(32, 8, -1).transpose(1, 0, 2).reshape(8, -1), axis=0)) == 8
    for view in range(8):  # epoch e has views 2e and 2e + 1 of the seed
        drawn = fresh_parameters(settings.policy, 16, settings.seed, view, index.samples.image_size)
        np.testing.assert_array_equal(parameters[:, view], drawn[order])
    again = views.render_job(3, order)
    np.testing.assert_array_equal(again.parameters, epochs[3].parameters)
    assert again.paths == [index.samples.sample_path[row] for row in order]
    np.testing.assert_array_equal(again.content_hash, index.samples.content_hash[order])


def test_parameters_of_an_image_do_not_depend_on_the_order(data: Path) -> None:
    settings = settings_of(data)
    index = index_data_set(data, ["train"], settings.run, settings, threads=1, progress=Silent())["train"]
    views = views_of(index, settings)
    straight = views.render_job(1, np.arange(32)).parameters
    order = np.random.default_rng(1).permutation(32)[:20]
    np.testing.assert_array_equal(views.render_job(1, order).parameters, straight[order])


def test_every_image_is_seen_once_an_epoch_except_the_rest_of_the_last_batch(data: Path) -> None:
    settings = settings_of(data, batch_size=9, epochs=1)
    pretrain(settings, Silent())
    steps = [json.loads(line)["step"] for line in (settings.run / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 32 // 9


def test_batch_of_more_images_than_there_are_is_one_sentence(data: Path) -> None:
    with pytest.raises(InputError, match=r"--batch-size 33 exceeds the 32 images of '.*train'; lower it\."):
        pretrain(settings_of(data, batch_size=33), Silent())
    assert not (data.parent / "teacher").exists()


def test_unknown_architecture_is_answered_before_anything_is_read(data: Path) -> None:
    with pytest.raises(InputError, match=r"There is no architecture 'conv4-17'\. Did you mean 'conv4-16'"):
        pretrain(settings_of(data / "nowhere", arch="conv4-17"), Silent())


def test_options_of_a_method_are_the_keyword_parameters_of_its_class_with_the_same_defaults() -> None:
    classes: dict[str, type] = {"simclr": SimCLR, "moco-v2": MoCoV2, "supervised": Supervised}
    assert classes.keys() == OPTIONS.keys()
    for name, kind in classes.items():
        keywords = {key: value for key, value in signature(kind).parameters.items() if value.kind is value.KEYWORD_ONLY}
        assert keywords.keys() - {"images", "classes", "precision"} == OPTIONS[name]
        for option in OPTIONS[name]:
            assert keywords[option].default == PretrainSettings.model_fields[option].default
