"""Networks by reference and as files: what is written is plain safetensors, what is read is checked."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision import models

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.pipeline.networks.network import Network, load_network, save_network, weights_sha256
from compress_ssl.pipeline.networks.preprocessing import Preprocessing
from compress_ssl.storage.errors import StoreError

# What anybody can write who has torchvision and safetensors, but not this project.
PLAIN_TORCHVISION = """
import sys
import numpy as np, torch
from safetensors.torch import load_file
from torchvision import models
for name, head in (("resnet18", "fc"), ("mobilenet_v2", "classifier.1")):
    network = models.get_model(name, weights=None).eval()
    network.set_submodule(head, torch.nn.Identity())
    network.load_state_dict(load_file(f"{name}/model.safetensors"))
    with torch.no_grad():
        np.save(f"{name}.npy", network(torch.from_numpy(np.load("images.npy"))).numpy())
assert not {name for name in sys.modules if name.startswith("compress_ssl")}
"""


def trained(name: str, seed: int = 0) -> Network:
    """A network whose batch norms are not as they begin."""
    network = load_network(f"random/{name}", seed)
    generator = torch.Generator().manual_seed(seed)
    for layer in network.module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean = torch.rand(layer.num_features, generator=generator)
            layer.running_var = 1 + torch.rand(layer.num_features, generator=generator)
    network.module.eval()
    return network


def saved(network: Network, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    save_network(folder / MODEL_FILE, network)
    return folder


def pictures(size: int = 32, count: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_a_run_s_network_loads_into_plain_torchvision(tmp_path: Path) -> None:
    networks = {name: trained(name) for name in ("resnet18", "mobilenet_v2")}
    for name, network in networks.items():
        saved(network, tmp_path / name)
    np.save(tmp_path / "images.npy", Preprocessing().normalize(pictures()).contiguous().numpy())
    subprocess.run([sys.executable, "-c", PLAIN_TORCHVISION], cwd=tmp_path, check=True)
    for name, network in networks.items():
        with torch.no_grad():
            ours = network.features(pictures())
        theirs = torch.from_numpy(np.load(tmp_path / f"{name}.npy"))
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18-32px", "resnet18-narrow-32px", "mobilenet_v2-32px", "conv4-16"])
def test_what_is_written_is_what_is_read(name: str, tmp_path: Path) -> None:
    wants = Preprocessing(mean=(0.1, 0.2, 0.3), std=(1.0, 0.5, 0.25), size=32, resize=40)
    network = replace(trained(name, 3), preprocessing=wants)
    run = saved(network, tmp_path / "teacher")
    read = load_network(str(run))
    assert (read.name, read.architecture, read.feature_dim) == ("teacher", name, network.feature_dim)
    assert read.preprocessing == wants
    assert read.identity() == network.identity()
    read.module.eval()
    with torch.no_grad():
        torch.testing.assert_close(read.features(pictures()), network.features(pictures()), rtol=0, atol=0)
    assert load_network(str(run / MODEL_FILE)).name == "teacher"
    assert load_file(run / MODEL_FILE).keys() == network.module.state_dict().keys()


def test_random_is_the_student_before_its_training() -> None:
    for seed in (0, 7):
        again = load_network("random/conv4-32", seed)
        assert weights_sha256(again.module) == weights_sha256(load_network("random/conv4-32", seed).module)
    assert load_network("random/conv4-32").name == "conv4-32, untrained"


def test_identity_changes_with_every_weight_and_buffer() -> None:
    network = load_network("random/conv4-16")
    seen = {weights_sha256(network.module)}
    for value in network.module.state_dict().values():
        with torch.no_grad():
            value.view(-1)[-1] += 1
        seen.add(weights_sha256(network.module))
    assert len(seen) == 1 + len(network.module.state_dict())


def test_identity_does_not_change_with_memory_layout_or_mode() -> None:
    network = load_network("random/resnet18-32px")
    before = network.identity()
    network.module.train().to(memory_format=torch.channels_last)
    assert network.identity() == before
    assert before["weights_sha256"] != load_network("random/resnet18-32px", 1).identity()["weights_sha256"]


def test_identity_tells_shapes_and_names_apart() -> None:
    flat, square = nn.Module(), nn.Module()
    flat.register_buffer("x", torch.zeros(4))
    square.register_buffer("x", torch.zeros(2, 2))
    other = nn.Module()
    other.register_buffer("y", torch.zeros(4))
    whole = nn.Module()
    whole.register_buffer("x", torch.zeros(4, dtype=torch.int32))
    assert len({weights_sha256(module) for module in (flat, square, other, whole)}) == 4


def test_truncated_file_is_one_sentence(tmp_path: Path) -> None:
    for size, what in [
        (0, "is not a checkpoint but an empty file"),
        (7, "is not a checkpoint but a file that starts with b'"),
        (100, "is a damaged safetensors file ("),
        (5000, "is a damaged safetensors file ("),
        (-1, "is a damaged safetensors file ("),
    ]:
        file = saved(load_network("random/conv4-16"), tmp_path / "run") / MODEL_FILE
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(
            InputError, match=f"run/model.safetensors' {re.escape(what)}.*; download, copy or train it again"
        ):
            load_network(str(tmp_path / "run"))


def test_file_that_claims_to_have_a_terabyte_is_refused_before_it_is_read(tmp_path: Path) -> None:
    os.truncate(saved(load_network("random/conv4-16"), tmp_path / "run") / MODEL_FILE, 2**40)
    with pytest.raises(InputError, match="is a damaged safetensors file"):
        load_network(str(tmp_path / "run"))


def test_header_that_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    for header, sentence in [
        ("[]", "holds something else"),
        ('{"architecture": "conv4-16"}', "lacks 'preprocessing'; give the model.safetensors of a run of this release."),
        ('{"architecture": "conv4-16", "preprocessing": {"mean": 1, "std": 1}}', "lacks 'preprocessing."),
        ("{", "is not valid JSON"),
        ("HUE", "has a wrong preprocessing.hue"),
        ("ARCHITECTURE conv5-16", "holds a 'conv5-16', which this release does not know; upgrade compress-ssl"),
        ("ARCHITECTURE conv4-32", "does not fit conv4-32: size mismatch for "),
        ("ARCHITECTURE resnet18", "does not fit resnet18: "),
    ]:
        file = saved(load_network("random/conv4-16"), tmp_path / "run") / MODEL_FILE
        with safe_open(file, "pt") as opened:
            ours = json.loads(opened.metadata()["compress_ssl"])
        if header == "HUE":
            header = json.dumps({**ours, "preprocessing": {**ours["preprocessing"], "hue": 1}})
        if header.startswith("ARCHITECTURE"):
            header = json.dumps({**ours, "architecture": header.split()[1]})
        save_file(load_file(file), file, {"compress_ssl": header})
        with pytest.raises((InputError, StoreError), match=r"model\.safetensors' ") as caught:
            load_network(str(tmp_path / "run"))
        assert sentence in str(caught.value)
        assert "\n" not in str(caught.value)


def test_reference_that_leads_nowhere_is_one_sentence() -> None:
    for reference, sentence in [
        (
            "nowhere/run",
            "'nowhere/run' is not a run's folder, a checkpoint file, NAME:PATH, torchvision/NAME, timm/NAME",
        ),
        ("resnet18", "needs weights; give torchvision/resnet18 for trained ones, random/resnet18 for"),
        ("random/resnet19", "There is no architecture 'resnet19'. Did you mean 'resnet18"),
        ("torchvision/resnet19", "There is no torchvision network 'resnet19'. Did you mean 'resnet18'?"),
        ("torchvision/conv4-16", "There is no torchvision network 'conv4-16'."),
        ("timm/resnet50x", "There is no timm network 'resnet50x'. Did you mean 'resnet50"),
        (
            "random/timm/vit_tinny_patch16_224",
            "There is no timm network 'vit_tinny_patch16_224'. Did you mean 'vit_tiny_",
        ),
        (
            "moco-v2-resnet5:nowhere.pth",
            "There is no teacher or architecture 'moco-v2-resnet5'. Did you mean 'moco-v2-re",
        ),
        ("timm/vit_tinny_patch16_224:nowhere.pth", "Did you mean 'vit_tiny_patch16_224'?"),
        ("resnet18:nowhere.pth", "The file 'nowhere.pth' with the weights of resnet18 does not exist; check the path"),
        (
            "swav-resnet50:nowhere.pth",
            "does not exist; download it from https://dl.fbaipublicfiles.com/deepcluster/swav_800ep",
        ),
        ("swav-resnet50", "needs a file of weights; download https://dl.fbaipublicfiles.com/deepcluster/swav_8"),
    ]:
        with pytest.raises(InputError) as caught:
            load_network(reference)
        assert sentence in str(caught.value)


def test_run_that_is_not_finished_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no model.safetensors; it is not a finished run \(use --resume to fin"):
        load_network(str(tmp_path))


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torchvision looks for weights before it downloads them."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def weights_file(folder: Path, name: str) -> Path:
    return folder / Path(models.get_model_weights(name).DEFAULT.url).name


def test_torchvisions_weights_come_with_what_they_want_to_see(torch_home: Path) -> None:
    torch.manual_seed(0)
    theirs = models.mobilenet_v2(weights=None)
    torch.save(theirs.state_dict(), weights_file(torch_home, "mobilenet_v2"))
    network = load_network("torchvision/mobilenet_v2")
    assert (network.name, network.architecture, network.feature_dim) == (
        "torchvision mobilenet_v2",
        "mobilenet_v2",
        1280,
    )
    wants = models.MobileNet_V2_Weights.DEFAULT.transforms()
    assert network.preprocessing == Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224, 232)
    assert (wants.crop_size, wants.resize_size) == ([224], [232])
    theirs.classifier[-1] = nn.Identity()
    images = network.preprocessing.normalize(pictures())
    with torch.no_grad():
        torch.testing.assert_close(network.module.eval()(images), theirs.eval()(images), rtol=0, atol=0)


class Surprise:
    """What a pickle may hold: a call that is made when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.mkdir, (self.folder,)


def test_weights_that_are_more_than_tensors_are_not_unpickled(torch_home: Path) -> None:
    surprise = torch_home / "surprise"
    torch.save({"features.0.0.weight": Surprise(surprise)}, weights_file(torch_home, "mobilenet_v2"))
    with pytest.raises(InputError, match="The weights of torchvision/mobilenet_v2 cannot be loaded"):
        load_network("torchvision/mobilenet_v2")
    assert not surprise.exists()


def test_truncated_weights_are_one_sentence(torch_home: Path) -> None:
    file = weights_file(torch_home, "mobilenet_v2")
    torch.save(models.mobilenet_v2(weights=None).state_dict(), file)
    file.write_bytes(file.read_bytes()[:50_000])
    with pytest.raises(
        InputError, match=r"cannot be loaded \(.*\); download https://.*pth to '.*checkpoints', replacing"
    ) as caught:
        load_network("torchvision/mobilenet_v2")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("folder", "name"), [("small", "small"), ("small/best", "small/best"),
                                              ("small/epoch-0010", "small/epoch-0010")])  # fmt: skip
def test_an_earlier_state_of_a_run_is_called_by_the_run_too(tmp_path: Path, folder: str, name: str) -> None:
    (tmp_path / "small").mkdir()
    assert load_network(str(saved(load_network("random/conv4-16"), tmp_path / folder))).name == name
