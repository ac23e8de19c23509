"""Supervised pre-training: the loss, what it learns, what it leaves, what it refuses."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.images.policies import POLICIES
from compress_ssl.pipeline.networks.network import load_network, weights_sha256
from compress_ssl.pipeline.pretrain.methods import classification_loss
from compress_ssl.pipeline.pretrain.run import pretrain
from compress_ssl.pipeline.pretrain.settings import PretrainSettings


def settings_of(data: Path, name: str = "supervised", **given: Any) -> PretrainSettings:
    values: dict[str, Any] = {
        "arch": "conv4-16", "method": "supervised", "epochs": 1, "batch_size": 16, "size": 16, "resize": 16,
        "learning_rate": 0.1, "device": "cpu", "threads": 1, "renderer": "torchvision",
    }  # fmt: skip
    return PretrainSettings(data=data, run=data.parent / name, **{**values, **given})


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """48 images in ``train`` of three classes, told apart by which channel is bright."""
    generator = np.random.default_rng(0)
    for channel, name in enumerate(("blue", "green", "red")):
        folder = tmp_path / "colours" / "train" / name
        folder.mkdir(parents=True)
        for number in range(16):
            pixels = generator.integers(0, 150, (20, 20, 3))
            pixels[:, :, channel] += 80
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02d}.png")
    return tmp_path / "colours"


def test_loss_and_accuracy_are_those_of_a_loop() -> None:
    outputs = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 3, 1, 0])
    losses, right = [], 0
    for row, label in zip(outputs.tolist(), labels.tolist(), strict=True):
        losses.append(-math.log(math.exp(row[label]) / sum(map(math.exp, row))))
        right += row.index(max(row)) == label
    loss, beside = classification_loss(outputs, labels)
    assert loss.item() == pytest.approx(sum(losses) / 7, rel=1e-12)
    assert beside["train_top1_percent"].item() == pytest.approx(100 * right / 7, rel=1e-6)


def test_it_learns_the_labels_and_leaves_the_network_without_its_classifier(colours: Path) -> None:
    settings = settings_of(colours, epochs=15, policy="identity")
    assert pretrain(settings, Silent()) == settings.run / "model.safetensors"
    lines = metrics(settings.run)
    assert lines[0]["loss"] == pytest.approx(math.log(3), abs=0.4)
    assert lines[-1]["loss"] < 0.3
    assert lines[-1]["train_top1_percent"] > 90
    untrained = load_network("random/conv4-16")
    assert load_file(settings.run / "model.safetensors").keys() == untrained.module.state_dict().keys()


def test_it_learns_nothing_but_chance_where_labels_are_shuffled(colours: Path) -> None:
    """The labels that count are those of the images shown."""
    names = [f"{name}/{number:02d}.png" for name in ("blue", "green", "red") for number in range(16)]
    shuffled = np.random.default_rng(1).permutation(np.repeat(["a", "b", "c"], 16))
    flat = colours.parent / "flat"
    (flat / "train").mkdir(parents=True)
    for name in names:
        shutil.copy(colours / "train" / name, flat / "train" / name.replace("/", "-"))
    labels = flat / "labels.txt"
    labels.write_text(
        "".join(f"{name.replace('/', '-')} {label}\n" for name, label in zip(names, shuffled, strict=True))
    )
    settings = settings_of(flat, epochs=15, policy="identity", labels=labels)
    pretrain(settings, Silent())
    assert metrics(settings.run)[-1]["train_top1_percent"] < 80


def test_resumed_training_ends_with_the_same_weights(colours: Path) -> None:
    pretrain(settings_of(colours, "whole", epochs=4), Silent())
    # Kept after two of the four epochs, and gone on with: the checkpoint of epoch 2 is put in the place of the last.
    settings = settings_of(colours, "parts", epochs=4, keep_every=2)
    pretrain(settings, Silent())
    shutil.copy(settings.run / "epoch-0002" / "checkpoint.pt", settings.run / "checkpoint.pt")
    (settings.run / "model.safetensors").unlink()
    pretrain(settings.model_copy(update={"resume": True}), Silent())
    hashes = {weights_sha256(load_network(str(colours.parent / name)).module) for name in ("whole", "parts")}
    assert len(hashes) == 1


def test_image_without_a_label_is_named_before_anything_is_written(colours: Path) -> None:
    flat = colours.parent / "flat"
    shutil.copytree(colours / "train" / "red", flat / "train")
    with pytest.raises(
        InputError, match=r"The image '.*flat/train/00\.png' has no label, and --method supervised needs"
    ):
        pretrain(settings_of(flat, batch_size=4), Silent())
    assert not (colours.parent / "supervised").exists()


def test_single_class_is_one_sentence(colours: Path) -> None:
    for name in ("blue", "green"):
        shutil.rmtree(colours / "train" / name)
    with pytest.raises(InputError, match=r"All images of '.*train' are of one class, .* take --method simclr\.$"):
        pretrain(settings_of(colours, batch_size=4), Silent())


def test_options_of_simclr_are_refused(tmp_path: Path) -> None:
    for name, value in [("temperature", 0.2), ("projection_dim", 128)]:
        option = f"--{name.replace('_', '-')}"
        with pytest.raises(
            ValidationError,
            match=f"{option} does nothing for --method supervised; leave it out, or take simclr, moco-v2",
        ):
            settings_of(tmp_path, **{name: value})
        assert getattr(settings_of(tmp_path, method="simclr", **{name: value}), name) == value


def test_policy_is_that_of_the_method_unless_given(tmp_path: Path) -> None:
    assert settings_of(tmp_path).policy == POLICIES["crop-flip"]
    assert settings_of(tmp_path, method="simclr").policy == POLICIES["moco-v2"]
    assert settings_of(tmp_path, policy="moco-v2").policy == POLICIES["moco-v2"]
