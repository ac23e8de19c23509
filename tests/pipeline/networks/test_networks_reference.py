"""What a string says of a network, without looking at anything but paths that hold a colon."""

from pathlib import Path

import pytest

from compress_ssl.pipeline.networks.reference import Reference, parse_reference


def test_a_reference_is_taken_apart() -> None:
    for reference, parts in [
        ("random/conv4-16", ("random", "conv4-16", None)),
        ("random/timm/vit_tiny_patch16_224", ("random", "timm/vit_tiny_patch16_224", None)),
        ("torchvision/resnet50", ("torchvision", "resnet50", None)),
        ("timm/vit_small_patch14_dinov2.lvd142m", ("timm", "timm/vit_small_patch14_dinov2.lvd142m", None)),
        ("moco-v2-resnet50:weights/moco.pth.tar", ("file", "moco-v2-resnet50", Path("weights/moco.pth.tar"))),
        ("resnet18:/a/b:c.pth", ("file", "resnet18", Path("/a/b:c.pth"))),
        ("timm/vit_tiny_patch16_224:model.bin", ("file", "timm/vit_tiny_patch16_224", Path("model.bin"))),
        ("resnet18:~/a.pth", ("file", "resnet18", Path.home() / "a.pth")),
        ("runs/teacher", ("file", None, Path("runs/teacher"))),
        ("teacher", ("file", None, Path("teacher"))),
        ("runs/monday:noon/model.safetensors", ("file", None, Path("runs/monday:noon/model.safetensors"))),
        ("teacher:", ("file", None, Path("teacher:"))),
    ]:
        assert parse_reference(reference) == Reference(*parts)  # type: ignore[arg-type]


def test_a_path_with_a_colon_that_exists_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_reference("monday:noon") == ("file", "monday", Path("noon"))
    Path("monday:noon").mkdir()
    assert parse_reference("monday:noon") == ("file", None, Path("monday:noon"))
