"""A user's network: a function that returns a module and its preprocessing, found by its place or its name."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from compress_ssl import EmbedSettings, Preprocessing, Silent, embed, load_network, register_network
from compress_ssl.cli.main import main
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.networks.catalogue import networks_of_packages
from compress_ssl.pipeline.networks.network import save_network
from compress_ssl.pipeline.networks.reference import Reference, parse_reference
from compress_ssl.pipeline.networks.user_networks import REGISTERED, entry_points_by_name

LAB = """
import torch
from torch import nn
from compress_ssl import Preprocessing

def means():
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 5)), Preprocessing(size=32, resize=36)

def of_a_dict():
    return means()[0], {"size": 32, "resize": 32, "mean": [0.5, 0.5, 0.5], "interpolation": "bicubic"}

def raises():
    raise OSError("no such file: weights.pth")

def module_only():
    return means()[0]

def maps():
    return nn.Conv2d(3, 4, 1), {}

class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
    def forward(self, images):
        return images.flatten(1).long()

def whole_numbers():
    return Whole(), {"size": 8, "resize": 8}

def spread():
    module = means()[0]
    module.append(nn.Linear(5, 5, device="meta"))
    return module, {"size": 32, "resize": 32}

def half():
    return means()[0].half(), {"size": 32, "resize": 32}

def unknown_field():
    return means()[0], {"crop": 3}

def small_resize():
    return means()[0], {"size": 384}

def no_deviation():
    return means()[0], {"std": (0, 1, 1)}

def not_finite():
    module = means()[0]
    module[2].bias.data[0] = torch.nan
    return module, {"size": 32, "resize": 32}

def pixels():
    return nn.Flatten(), {"size": 8, "resize": 8}

value = 3
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the module ``lab_models``."""
    (tmp_path / "lab_models.py").write_text(LAB)
    (tmp_path / "lab_broken.py").write_text("import no_such_library\n")
    (tmp_path / "lab_wrong.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("lab_models", "lab_broken", "lab_wrong", "lab_package"):
        sys.modules.pop(name, None)
    REGISTERED.clear()
    entry_points_by_name.cache_clear()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images" / "train" / "a"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), dtype=np.uint8)
    for number, each in enumerate(pixels):
        Image.fromarray(each).save(folder / f"{number}.png")
    return tmp_path / "images"


def test_a_function_of_the_current_folder_is_a_network(lab: Path) -> None:
    network = load_network("lab_models:means", seed=3)
    assert (network.name, network.feature_dim) == ("lab_models:means", 5)
    assert network.preprocessing == Preprocessing(size=32, resize=36)
    torch.manual_seed(3)
    expected = nn.Linear(12, 5)
    assert torch.equal(network.module.get_parameter("2.weight"), expected.weight)
    identity = network.identity()
    assert identity["architecture"] == "lab_models:means"
    assert identity["feature_layer"] == "the module's output"
    assert identity["weights_sha256"] != load_network("lab_models:means", seed=4).identity()["weights_sha256"]


def test_preprocessing_may_be_a_dict_of_its_fields(lab: Path) -> None:
    assert load_network("lab_models:of_a_dict").preprocessing == Preprocessing(
        (0.5, 0.5, 0.5), size=32, resize=32, interpolation="bicubic"
    )


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("no_such_lab:dino", "names a module 'no_such_lab', which does not exist; install it"),
        ("lab_models.py:means", r"names a module 'lab_models.py', which does not exist; give it without .py"),
        ("lab_broken:dino", "'lab_broken' .* cannot be imported: No module named 'no_such_library'"),
        ("lab_wrong:dino", "'lab_wrong' .* cannot be imported: ZeroDivisionError: division by zero"),
        ("lab_models:none", "has no function 'none'"),
        ("lab_models:value", "has no function 'value'"),
        ("lab_models:raises", "fails: OSError: no such file: weights.pth"),
        ("lab_models:module_only", r"returns a Sequential; return \(torch.nn.Module, preprocessing\)"),
        ("lab_models:maps", r"returns a tensor \(2, 4, 224, 224\) for two images; return features \(2, F\)"),
        ("lab_models:whole_numbers", "are torch.int64; return floating-point numbers"),
        ("lab_models:spread", "are on cpu, meta; put them on one device"),
        ("lab_models:half", r"cannot take normalized float32 images \(2, 3, 32, 32\): RuntimeError"),
        ("lab_models:unknown_field", "has crop = 3: Extra inputs are not permitted"),
        ("lab_models:small_resize", "crops 384 pixels from images resized to 256"),
        ("lab_models:no_deviation", r"divides by std = \(0.0, 1.0, 1.0\)"),
        ("lab_models:not_finite", "The weights '2.bias' .* are not finite"),
        ("lab_models:pixels", "has no weights"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(reference: str, sentence: str, lab: Path) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        load_network(reference)
    assert "\n" not in str(caught.value)


def test_a_pool_cannot_be_chosen_for_a_module_whose_output_is_its_user_s(lab: Path) -> None:
    (lab / "lab_vit.py").write_text(
        "import timm\n"
        "def vit():\n"
        "    options = {'img_size': 32, 'patch_size': 8, 'embed_dim': 12, 'depth': 1, 'num_heads': 3}\n"
        "    return timm.models.vision_transformer.VisionTransformer(num_classes=5, **options), {'size': 32}\n"
    )
    network = load_network("lab_vit:vit")
    assert (network.feature_dim, "pool" in network.identity()) == (5, False)
    with pytest.raises(InputError, match=r"The output of 'lab_vit:vit', .* is taken as it is; leave --pool out"):
        load_network("lab_vit:vit", pool="avg")


def test_files_and_known_names_come_first(lab: Path) -> None:
    assert parse_reference("lab_models:means").kind == "user"
    assert parse_reference("resnet18:means") == Reference("file", "resnet18", Path("means"))
    Path("lab_models:means").touch()
    assert parse_reference("lab_models:means") == Reference("file", None, Path("lab_models:means"))
    Path("lab_models:means").unlink()
    Path("means").touch()
    assert parse_reference("lab_models:means") == Reference("file", "lab_models", Path("means"))


def test_a_store_is_made_by_a_function_and_checked_against_it(lab: Path, images: Path) -> None:
    settings = EmbedSettings(
        data=images, store=lab / "a.zarr", teacher="lab_models:means", split=("train",), views=1, device="cpu"
    )
    store = embed(settings, Silent())
    teacher = store.attributes["teacher"]
    assert (teacher["name"], teacher["architecture"]) == ("lab_models:means", "lab_models:means")
    assert teacher["weights_sha256"] == load_network("lab_models:means").identity()["weights_sha256"]
    assert store["train"].feature_dim == 5


def test_a_module_at_hand_is_registered_under_a_name(lab: Path, images: Path) -> None:
    module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 7))
    register_network("at-hand", lambda: (module, Preprocessing(size=16, resize=16)))
    settings = EmbedSettings(data=images, store=lab / "a.zarr", teacher="at-hand", split=("train",), device="cpu")
    store = embed(settings, Silent())
    assert store.attributes["teacher"]["name"] == "at-hand"
    assert store["train"].feature_dim == 7
    with pytest.raises(InputError, match="'at-hand' exists in this process only, and not in Dask's workers"):
        embed(settings.model_copy(update={"store": lab / "b.zarr", "workers": 2}), Silent())
    with pytest.raises(InputError, match="cannot name a network"):
        register_network("a:b", lambda: (module, {}))


def test_a_file_does_not_pretend_to_describe_it(lab: Path) -> None:
    with pytest.raises(InputError, match="is built by a function, and a file has only weights"):
        save_network(lab / "model.safetensors", load_network("lab_models:means"))
    assert not (lab / "model.safetensors").exists()


def test_ours_is_taken_where_a_network_of_the_process_has_its_name(lab: Path, caplog: pytest.LogCaptureFixture) -> None:
    register_network("resnet18", lambda: (nn.Flatten(), {}))
    with pytest.raises(InputError, match="The architecture 'resnet18' needs weights"):
        load_network("resnet18")
    assert "'resnet18' is also the name of a network of a package or this process; ours is taken." in caplog.messages


def test_a_package_has_networks_of_its_own(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed as pip does it: a module, and a folder of metadata beside it."""
    site = lab / "site"
    metadata = site / "lab_models-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "lab_package.py").write_text(LAB)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-models\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[compress_ssl.teachers]\nlab-dino = lab_package:means\n")
    monkeypatch.syspath_prepend(site)
    entry_points_by_name.cache_clear()
    network = load_network("lab-dino")
    assert (network.name, network.architecture) == ("lab-dino", "lab_package:means")
    assert networks_of_packages() == [("lab-dino", "lab-models", "lab_package:means")]
    with pytest.raises(InputError, match=r"Did you mean 'lab-dino'\?"):
        load_network("lab-dini")
    answer = CliRunner().invoke(main, ["models", "lab-dino", "--json"])
    shown = json.loads(answer.stdout)["networks"][0]
    assert (shown["architecture"], shown["feature_dim"], shown["parameters"]) == ("lab_package:means", 5, 65)
