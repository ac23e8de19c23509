"""Layouts of checkpoints: what is written from a known network gives its outputs back, bit for bit."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torchvision import models

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.networks.architectures import build_backbone
from compress_ssl.pipeline.networks.checkpoints.file import CheckpointFile
from compress_ssl.pipeline.networks.checkpoints.layouts import LAYOUTS, find_weights
from compress_ssl.pipeline.networks.checkpoints.load import KNOWN_BY_SHAPE, architecture_of, mismatches
from compress_ssl.pipeline.networks.network import Network, load_network
from compress_ssl.pipeline.networks.teachers import TEACHERS

Writers = dict[str, Callable[[nn.Module], Any]]
GetNetwork = Callable[[str], nn.Module]

HEADS = {"alexnet": "classifier.6", "mobilenet_v2": "classifier.1"}


def written_as(layout: str) -> str:
    return {"simclr-flat": "resnet50", "compress-alexnet": "alexnet", "compress": "mobilenet_v2"}.get(
        layout, "resnet18"
    )


def images(size: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def features(theirs: nn.Module, name: str, inputs: torch.Tensor) -> torch.Tensor:
    """What torchvision's own network gives to its classifier."""
    seen: list[torch.Tensor] = []
    hook = theirs.get_submodule(HEADS.get(name, "fc")).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        theirs(inputs)
    hook.remove()
    return seen[0]


def assert_same_outputs(network: Network, theirs: nn.Module, name: str) -> None:
    network.module.eval()
    with torch.no_grad():
        ours = network.features(images())
    expected = features(theirs, name, network.preprocessing.normalize(images()))
    assert ours.shape == (2, network.feature_dim)
    assert ours.std() > 0
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def state_as_file(state: dict[str, torch.Tensor]) -> CheckpointFile:
    return CheckpointFile(Path("some.pth"), "0" * 64, state, {})


def test_every_layout_is_tested(writers: Writers) -> None:
    assert writers.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_project_writes_gives_the_same_outputs(
    layout: str, tmp_path: Path, writers: Writers, published_network: GetNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    name = written_as(layout)
    theirs = published_network(name)
    file = tmp_path / "published.pth.tar"
    torch.save(writers[layout](theirs), file)
    with caplog.at_level(logging.INFO):
        network = load_network(f"{name}:{file}")
    assert_same_outputs(network, theirs, name)
    loaded = network.checkpoint
    assert loaded is not None
    assert loaded.layout == layout
    assert loaded.used == len(network.module.state_dict())
    assert loaded.missing == ()
    assert (network.name, network.architecture) == ("published", name)
    assert caplog.messages == [f"{name}: {loaded}"]
    assert f"loaded {loaded.used} tensors of '{file}' (layout {layout}, SHA-256 " in caplog.messages[0]


@pytest.mark.parametrize("layout", ["plain", "moco-v2"])
def test_other_file_formats_hold_the_same(
    layout: str, tmp_path: Path, writers: Writers, published_network: GetNetwork
) -> None:
    theirs = published_network("resnet18")
    content = writers[layout](theirs)
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(
        {key: value.clone() for key, value in content.get("state_dict", content).items()}, tmp_path / "new.safetensors"
    )
    for file in ("old.pth", "new.safetensors"):
        assert_same_outputs(load_network(f"resnet18:{tmp_path / file}"), theirs, "resnet18")


def test_a_network_that_was_compiled_is_read_wherever_torch_noted_it(
    tmp_path: Path, published_network: GetNetwork
) -> None:
    for before in ["_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model._orig_mod."]:
        theirs = published_network("resnet18")
        file = tmp_path / "compiled.ckpt"
        torch.save({"state_dict": {f"{before}{key}": value for key, value in theirs.state_dict().items()}}, file)
        assert_same_outputs(load_network(f"resnet18:{file}"), theirs, "resnet18")


def test_flat_numbers_follow_the_published_forward_pass(writers: Writers, published_network: GetNetwork) -> None:
    """Run the flat weights in the order of CompRess's models/resnet50x4.py: a stage starts with the shortcut."""
    theirs = published_network("resnet50")
    state = writers["simclr-flat"](theirs)["state_dict"]
    numbers = iter(range(53))

    def layer(x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        at = next(numbers)
        conv, norm = (f"{kind}{f'_{at}' if at else ''}" for kind in ("conv2d", "batch_normalization"))
        x = functional.conv2d(x, state[f"{conv}.weight"], stride=stride, padding=state[f"{conv}.weight"].shape[-1] // 2)
        statistics = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        return functional.batch_norm(x, *statistics, state[f"{norm}.weight"], state[f"{norm}.bias"])

    x = inputs = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    x = functional.max_pool2d(functional.relu(layer(x, 2)), 3, 2, padding=1)
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            stride = 2 if block == 0 and stage > 0 else 1
            shortcut = layer(x, stride) if block == 0 else x
            x = functional.relu(layer(x))
            x = functional.relu(layer(x, stride))
            x = functional.relu(layer(x) + shortcut)
    assert next(numbers, None) is None
    torch.testing.assert_close(x.mean((2, 3)), features(theirs, "resnet50", inputs), rtol=1e-4, atol=1e-5)


def test_every_layout_cites_what_was_read() -> None:
    for layout in LAYOUTS:
        source = LAYOUTS[layout].source
        assert re.search(r"[\w-]+/[\w-]+, .*\.py.*commit [0-9a-f]{7}", source) or layout == "model"


def test_plain_weights_of_torchvision_are_seen_as_such() -> None:
    """No key of an architecture is another project's mark; its classifier is left out, and nothing else is."""
    for name in [
        "alexnet",
        "vgg11_bn",
        "resnet18",
        "resnext50_32x4d",
        "densenet121",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "mnasnet0_5",
        "shufflenet_v2_x0_5",
        "efficientnet_b0",
        "convnext_tiny",
        "swin_t",
        "vit_b_16",
    ]:
        with torch.device("meta"):
            whole, module = models.get_model(name, weights=None), build_backbone(name).module
        weights = find_weights(state_as_file(whole.state_dict()))
        assert weights.layout == "plain"
        assert mismatches(module, weights.backbone) == []
        assert mismatches(module, {key: weights.backbone[key] for key in module.state_dict()}) == []


def test_plain_weights_of_timm_are_seen_as_such() -> None:
    for name in [
        "timm/vit_tiny_patch16_224",
        "timm/resnet18",
        "timm/convnext_atto",
        "timm/swin_tiny_patch4_window7_224",
    ]:
        import timm

        with torch.device("meta"):
            whole, module = timm.create_model(name.removeprefix("timm/")), build_backbone(name).module
        weights = find_weights(state_as_file(whole.state_dict()))
        assert weights.layout == "plain"
        assert mismatches(module, weights.backbone) == []


def test_an_architecture_is_known_by_its_shapes() -> None:
    for name in KNOWN_BY_SHAPE:
        with torch.device("meta"):
            state = build_backbone(name, seed=None).module.state_dict()
        assert architecture_of(state) == name


def saved(content: Any, folder: Path, name: str = "lab.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def test_wrong_architecture_names_three_keys_and_what_would_fit(tmp_path: Path, published_network: GetNetwork) -> None:
    file = saved(published_network("resnet18").state_dict(), tmp_path)
    with pytest.raises(
        InputError,
        match=r"lab.pth' \(layout plain\) does not fit resnet50: layer1.0.conv1.weight is \(64, 64, 3, 3\) instead of "
        r"\(64, 64, 1, 1\), layer1.0.conv3.weight is missing, layer1.0.bn3.weight is missing and \d+ more; "
        r"resnet18 would fit: give resnet18:PATH\.$",
    ):
        load_network(f"simclr-resnet50:{file}")


def test_a_deeper_network_does_not_pass_as_a_shallower_one(tmp_path: Path, published_network: GetNetwork) -> None:
    """ResNet-34 has every key of ResNet-18, in the same shape."""
    file = saved(published_network("resnet34").state_dict(), tmp_path)
    with pytest.raises(InputError, match=r"layer1.2.conv1.weight is unexpected, .*; resnet34 would fit"):
        load_network(f"resnet18:{file}")


def test_a_missing_weight_of_the_backbone_is_an_error(tmp_path: Path, published_network: GetNetwork) -> None:
    state = published_network("resnet18").state_dict()
    del state["layer3.0.bn2.running_var"]
    file = saved({"state_dict": state}, tmp_path)
    with pytest.raises(InputError, match=r"does not fit resnet18: layer3.0.bn2.running_var is missing; give NAME:PATH"):
        load_network(f"resnet18:{file}")


def test_weights_without_values_are_one_sentence(tmp_path: Path) -> None:
    with torch.device("meta"):
        state = models.resnet18().state_dict()
    with pytest.raises(
        InputError, match=r"lab.pth' holds weights that are not dense tensors \(quantised, sparse, or on the"
    ):
        load_network(f"resnet18:{saved(state, tmp_path)}")


def test_missing_counters_of_batches_are_said_and_no_error(tmp_path: Path, published_network: GetNetwork) -> None:
    theirs = published_network("resnet18")
    state = {key: value for key, value in theirs.state_dict().items() if not key.endswith("num_batches_tracked")}
    network = load_network(f"resnet18:{saved(state, tmp_path)}")
    assert_same_outputs(network, theirs, "resnet18")
    assert network.checkpoint is not None
    assert len(network.checkpoint.missing) == 20
    assert "missing: bn1 (1), layer1 (4), layer2 (5)" in str(network.checkpoint)


def test_a_supervised_head_is_left_out_and_said(tmp_path: Path, published_network: GetNetwork) -> None:
    for name, parts in (("resnet18", "fc (2)"), ("mobilenet_v2", "classifier (2)"), ("alexnet", "classifier (2)")):
        network = load_network(f"{name}:{saved(published_network(name).state_dict(), tmp_path)}")
        assert_same_outputs(network, published_network(name), name)
        assert f"left out: {parts};" in str(network.checkpoint)


def test_a_head_without_its_network_is_an_error(tmp_path: Path) -> None:
    for content in [
        {"linear.weight": torch.ones(1000, 2048), "linear.bias": torch.ones(1000)},
        {"state_dict": {"module.linear.weight": torch.ones(1000, 2048), "module.linear.bias": torch.ones(1000)}},
    ]:
        with pytest.raises(
            InputError, match=r"lab.pth' holds a head without its network \(linear.weight, linear.bias\); give"
        ):
            load_network(f"swav-resnet50:{saved(content, tmp_path)}")


def test_a_file_without_weights_is_one_sentence(tmp_path: Path) -> None:
    for content in [{"epoch": 3, "optimizer": {}}, [torch.ones(3)], torch.ones(3), {"state_dict": {}}]:
        with pytest.raises(InputError, match=r"lab.pth' holds no weights.*; give a file with a state dict"):
            load_network(f"resnet18:{saved(content, tmp_path)}")


@pytest.mark.parametrize(
    ("layout", "name"),
    [("moco-v1", "moco-v1-resnet50"), ("moco-v2", "moco-v2-resnet50"), ("moco-v3", "moco-v3-resnet50"),
     ("swav", "swav-resnet50"), ("dino", "dino-resnet50"), ("barlow-twins", "barlow-twins-resnet50"),
     ("vicreg", "vicreg-resnet50"),
     ("simclr-flat", "simclr-resnet50")],
)  # fmt: skip
def test_a_file_that_says_what_it_is_needs_no_name(
    layout: str, name: str, tmp_path: Path, writers: Writers, published_network: GetNetwork
) -> None:
    network = load_network(str(saved(writers[layout](published_network("resnet50")), tmp_path)))
    assert network.name == name
    assert network.preprocessing == TEACHERS[name].preprocessing


def test_a_file_of_either_version_of_moco_is_called_by_its_name(
    tmp_path: Path, writers: Writers, published_network: GetNetwork
) -> None:
    network = load_network(str(saved(writers["moco"](published_network("resnet50")), tmp_path)))
    assert (network.name, network.architecture) == ("lab", "resnet50")


@pytest.mark.parametrize(
    ("architecture", "queues"), [("resnet18", 1), ("resnet18", 2), ("resnet50", 2), ("mobilenet_v2", 2), ("alexnet", 2)]
)
def test_students_of_the_compress_release_need_no_name(
    architecture: str, queues: int, tmp_path: Path, writers: Writers, published_network: GetNetwork
) -> None:
    """With two queues the published code saves no ``fc``, but for ResNet-50's to 8,192 dimensions."""
    theirs = published_network(architecture)
    content = writers["compress-alexnet" if architecture == "alexnet" else "compress"](theirs)
    if queues == 2 and architecture != "resnet50":
        content["model"] = {key: value for key, value in content["model"].items() if not key.startswith("module.fc.")}
    network = load_network(str(saved(content, tmp_path, "compress_r50x4.pth")))
    assert (network.name, network.architecture) == ("compress_r50x4", architecture)
    assert_same_outputs(network, theirs, architecture)


def test_a_file_that_does_not_say_how_it_was_trained_asks_for_a_name(
    tmp_path: Path, writers: Writers, published_network: GetNetwork
) -> None:
    for layout in ("plain", "lightly", "solo-learn", "model"):
        with pytest.raises(
            InputError,
            match=r"holds a resnet50, but its layout does not identify .* NAME one of simclr-resnet50, .*vicreg",
        ):
            load_network(str(saved(writers[layout](published_network("resnet50")), tmp_path)))
    with pytest.raises(
        InputError, match=r"holds a resnet18, but its layout does not identify .*, NAME one of resnet18 \(resnet18:"
    ):
        load_network(str(saved(published_network("resnet18").state_dict(), tmp_path)))
    with pytest.raises(
        InputError,
        match=r"\(layout plain\) matches no architecture that is recognised by its shapes "
        r"\(its keys are a.weight, \.\.\.\)",
    ):
        load_network(str(saved({"a.weight": torch.ones(2, 2, 2, 2)}, tmp_path)))


def test_a_teacher_is_not_taken_from_another_method_s_file(
    tmp_path: Path, writers: Writers, published_network: GetNetwork
) -> None:
    file = saved(writers["moco-v2"](published_network("resnet50")), tmp_path)
    with pytest.raises(
        InputError, match=r"has the layout of moco-v2-resnet50, not of simclr-resnet50; give one of these"
    ):
        load_network(f"simclr-resnet50:{file}")


def test_a_timm_network_is_read_from_a_file(tmp_path: Path) -> None:
    import timm

    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=10).eval()
    save_file(theirs.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    network = load_network(f"timm/vit_tiny_patch16_224:{tmp_path}")
    network.module.eval()
    inputs = network.preprocessing.normalize(images(224))
    with torch.no_grad():
        expected = theirs.forward_head(theirs.forward_features(inputs), pre_logits=True)
        torch.testing.assert_close(network.features(images(224)), expected, rtol=0, atol=0)
    assert network.preprocessing.mean == (0.5, 0.5, 0.5)
    assert network.name == tmp_path.name


def test_identity_says_which_file_it_was(tmp_path: Path, published_network: GetNetwork) -> None:
    state = published_network("resnet18").state_dict()
    first, second = (load_network(f"resnet18:{saved(state, tmp_path, name)}") for name in ("a.pth", "b.pth"))
    one, other = first.identity(), second.identity()
    assert one["checkpoint"].keys() == {"file_sha256", "layout"}
    assert "checkpoint" not in load_network("random/conv4-16").identity()
    assert {**one, "checkpoint": None} == {**other, "checkpoint": None}
