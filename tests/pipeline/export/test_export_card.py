"""The card's own Python, run without this package, gives what the network gives here; what the card says."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torchvision import models

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.export.card import IN_TIMM_TOO, loading_code
from compress_ssl.pipeline.export.onnx import sample_photographs
from compress_ssl.pipeline.export.origin import NOT_SHOWN
from compress_ssl.pipeline.networks.network import Network
from compress_ssl.pipeline.networks.preprocessing import Preprocessing
from compress_ssl.pipeline.pretrain.settings import PretrainSettings
from compress_ssl.storage import open_store

Exported = Callable[..., Path]
NetworkOf = Callable[[str, int], Network]

LIBRARIES = {
    "resnet18": ["torchvision", "timm"],
    "mobilenet_v2": ["torchvision"],
    "alexnet": ["torchvision"],
    "timm/vit_tiny_patch16_224": ["timm"],
    "conv4-16": ["compress-ssl"],
}
SIZES = {"alexnet": 64, "timm/vit_tiny_patch16_224": 224}
PLAIN = [name for name, libraries in LIBRARIES.items() if libraries != ["compress-ssl"]]

RUN_CARDS = """
import json, os, re, sys
answers = {}
for folder in sys.argv[1:]:
    os.chdir(folder)
    blocks = re.findall(r"```python\\n(.*?)```", open("README.md").read(), re.DOTALL)
    images, features = blocks[0], next(block for block in blocks if block.startswith("normalised"))
    for block in blocks[1:]:
        if block == features:
            continue
        here = {}
        exec(images + block + (features if "network = " in block else ""), here)
        answers.setdefault(folder, []).append(here["features"].tolist())
assert [name for name in sys.modules if name.startswith("compress_ssl")] == [], "not plain"
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def folders(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The exported folders, each with ``photograph.jpg`` in it for the time being."""
    from PIL import Image

    pixels = sample_photographs(Preprocessing(size=300, resize=300))[0].numpy()
    made = {name: exported(name, SIZES.get(name, 32)) for name in LIBRARIES}
    for out in made.values():
        Image.fromarray(pixels).save(out / "photograph.jpg", quality=95)
    return made


@pytest.fixture(scope="module")
def plain_answers(folders: dict[str, Path]) -> dict[str, list[np.ndarray]]:
    """Features by each way that plain architectures' cards show, from one process without this package."""
    plain = [str(folders[name]) for name in PLAIN]
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN_CARDS, *plain], capture_output=True, text=True, check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return {folder: [np.array(each) for each in found] for folder, found in json.loads(answer.stdout).items()}


def features_by_embed(out: Path, folder: Path) -> np.ndarray:
    """What stage one makes of the photograph with the exported folder as its teacher."""
    (folder / "data" / "train").mkdir(parents=True)
    (folder / "data" / "train" / "photograph.jpg").write_bytes((out / "photograph.jpg").read_bytes())
    settings = EmbedSettings(
        data=folder / "data", store=folder / "store.zarr", teacher=str(out), split=("train:0",), normalise=True,
        renderer="torchvision", threads=1, device="cpu",
    )  # fmt: skip
    embed(settings, Silent())
    return open_store(folder / "store.zarr")["train"].view(0).astype(np.float64)


@pytest.mark.parametrize("name", PLAIN)
def test_cards_own_lines_give_the_features_of_this_package(
    folders: dict[str, Path], plain_answers: dict[str, list[np.ndarray]], tmp_path: Path, name: str
) -> None:
    answers = plain_answers[str(folders[name])]
    assert len(answers) == len(LIBRARIES[name]) + 1  # ONNX
    expected = features_by_embed(folders[name], tmp_path)
    for features in answers:
        assert features.shape == expected.shape
        directions = features / np.linalg.norm(features)
        np.testing.assert_allclose(directions, expected, atol=1e-3)  # the store is float16
        np.testing.assert_allclose(features, answers[0], atol=1e-4 * np.abs(features).max())


def test_architecture_of_our_own_is_loaded_with_this_package(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = features_by_embed(folders["conv4-16"], tmp_path)
    monkeypatch.chdir(folders["conv4-16"])
    code = "".join(re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL))
    here: dict[str, np.ndarray] = {}
    exec(code, here)  # noqa: S102 (our own card)
    features = here["features"].astype(np.float64)
    np.testing.assert_allclose(features / np.linalg.norm(features), expected, atol=1e-3)


@pytest.mark.parametrize("name", ["resnet18-32px", "resnext50_32x4d-32px", "mobilenet_v2-32px", "alexnet-32px"])
def test_lines_for_small_images_build_the_same_network_of_torchvision(network_of: NetworkOf, name: str) -> None:
    network = network_of(name, 32)
    (code,) = loading_code(network).values()
    building, _, last = code.rpartition("\n")
    assert last == 'network.load_state_dict(load_file("model.safetensors"))'
    here: dict[str, torch.nn.Module] = {}
    exec(building, here)  # noqa: S102 (our own lines)
    here["network"].load_state_dict(network.module.state_dict())
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(here["network"].eval()(images), network.module(images), rtol=0, atol=0)


def test_head_of_the_card_is_yaml_that_names_the_library(exported: Exported) -> None:
    for name, libraries in LIBRARIES.items():
        card = (exported(name, SIZES.get(name, 32)) / "README.md").read_text()
        head = yaml.safe_load(card.split("---\n")[1])
        assert head.pop("library_name") == libraries[0]
        assert head.pop("pipeline_tag") == "image-feature-extraction"
        assert set(libraries) <= set(head.pop("tags"))
        assert head == {}
        assert str(Path.home()) not in card
        assert "/tmp" not in card


def test_timm_has_torchvisions_network_with_the_same_parameters() -> None:
    for name in IN_TIMM_TOO:
        import timm

        with torch.device("meta"):
            theirs, ours = timm.create_model(name, num_classes=1000), models.get_model(name)
        shapes = [{key: value.shape for key, value in network.state_dict().items()} for network in (theirs, ours)]
        assert shapes[0] == shapes[1]


def test_method_shows_no_path_or_runtime_option_of_any_training() -> None:
    for settings in (DistillSettings, PretrainSettings):
        assert settings.fields_with_role("path", "runtime") <= NOT_SHOWN
