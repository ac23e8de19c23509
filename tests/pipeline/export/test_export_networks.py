"""Networks of every library, exported: their cards' code and their ONNX files give what the networks give here."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.export.onnx import sample_photographs
from compress_ssl.pipeline.export.run import export
from compress_ssl.pipeline.export.settings import ExportSettings
from compress_ssl.pipeline.networks.network import Network, load_network, save_network
from compress_ssl.pipeline.networks.pooling import pooled_features
from compress_ssl.pipeline.networks.preprocessing import Preprocessing
from compress_ssl.storage import open_store

NetworkOf = Callable[[str, int], Network]

LIBRARIES = {
    "resnet18": ["torchvision", "timm"],
    "mobilenet_v2": ["torchvision"],
    "alexnet": ["torchvision"],
    "timm/test_vit": ["timm"],
    "timm/test_vit avg": ["timm"],
    "timm/test_vit token+avg": ["timm"],
}
"""Libraries that the card of an architecture has lines for."""
SIZES = {"alexnet": 64, "timm/test_vit": 160, "timm/test_vit avg": 160, "timm/test_vit token+avg": 160}
IN_ONNX = ["resnet18", "mobilenet_v2", "alexnet", "timm/test_vit token+avg"]
"""Those that are written as ONNX too, which takes seconds for each."""
LARGE = ["mobilenet_v2", "alexnet"]
SMALL = [name for name in LIBRARIES if name not in LARGE]

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


def exported(folder: Path, name: str, network: Network) -> Path:
    """Export a network from the file of a run, with ``photograph.jpg`` beside."""
    run, out = (folder / where / name.replace("/", "-").replace(" ", "-") for where in ("runs", "exported"))
    save_network(run / MODEL_FILE, network)
    export(ExportSettings(run=str(run), out=out, onnx=name in IN_ONNX))
    pixels = sample_photographs(Preprocessing(size=300, resize=300))[0].numpy()
    Image.fromarray(pixels).save(out / "photograph.jpg", quality=95)
    return out


@pytest.fixture(scope="module", params=[SMALL, pytest.param(LARGE, marks=pytest.mark.slow)], ids=["small", "large"])
def folders(
    request: pytest.FixtureRequest, network_of: NetworkOf, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Networks by name, exported; read them, never change them."""
    folder = tmp_path_factory.mktemp("exported")
    return {name: exported(folder, name, network_of(name, SIZES.get(name, 32))) for name in request.param}


@pytest.fixture(scope="module")
def plain_answers(folders: dict[str, Path]) -> dict[str, list[np.ndarray]]:
    """Features by each way that plain architectures' cards show, from one process without this package."""
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN_CARDS, *map(str, folders.values())], capture_output=True, text=True,
        check=False, env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
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


def test_cards_own_lines_give_the_features_of_this_package(
    folders: dict[str, Path], plain_answers: dict[str, list[np.ndarray]], tmp_path: Path
) -> None:
    for name, folder in folders.items():
        answers = plain_answers[str(folder)]
        assert len(answers) == len(LIBRARIES[name]) + (name in IN_ONNX), name
        expected = features_by_embed(folder, tmp_path / name)
        for features in answers:
            assert features.shape == expected.shape, name
            directions = features / np.linalg.norm(features)
            np.testing.assert_allclose(directions, expected, atol=1e-3, err_msg=name)  # the store is float16
            np.testing.assert_allclose(features, answers[0], atol=1e-4 * np.abs(features).max(), err_msg=name)


def test_architecture_of_our_own_is_loaded_with_this_package(
    network_of: NetworkOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = exported(tmp_path, "conv4-16", network_of("conv4-16", 32))
    assert_head(out, ["compress-ssl"])
    expected = features_by_embed(out, tmp_path)
    monkeypatch.chdir(out)
    code = "".join(re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL))
    here: dict[str, torch.Tensor] = {}
    exec(code, here)  # noqa: S102 (our own card)
    features = np.asarray(here["features"], np.float64)
    np.testing.assert_allclose(features / np.linalg.norm(features), expected, atol=1e-3)


def test_onnx_gives_torchs_features_for_any_batch_size(folders: dict[str, Path]) -> None:
    names = folders.keys() & set(IN_ONNX)
    assert names
    for name in names:
        assert_onnx_gives_torchs_features(folders[name])


def assert_onnx_gives_torchs_features(out: Path) -> None:
    network = load_network(str(out / MODEL_FILE))
    size = network.preprocessing.size
    network.module.eval()
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    (images,), (features,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape[1:]) == ("images", "tensor(float)", [3, size, size])
    assert (features.name, features.shape[1:]) == ("features", [network.feature_dim])
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (network.preprocessing.mean, network.preprocessing.std)
    )
    for count in (1, 3):
        batch = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(count))
        with torch.inference_mode():
            expected = pooled_features(network.module, (batch - mean) / std, network.pool).numpy()
        (found,) = session.run(None, {"images": batch.numpy()})
        assert found.shape == (count, network.feature_dim)
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_head_of_the_card_is_yaml_that_names_the_library(folders: dict[str, Path]) -> None:
    for name, out in folders.items():
        assert_head(out, LIBRARIES[name])


def assert_head(out: Path, libraries: list[str]) -> None:
    card = (out / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head.pop("library_name") == libraries[0]
    assert head.pop("pipeline_tag") == "image-feature-extraction"
    assert set(libraries) <= set(head.pop("tags"))
    assert head == {}
    assert str(Path.home()) not in card
    assert "/tmp" not in card
