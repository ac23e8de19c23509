"""What a string says of a network, without looking at anything but paths that hold a colon or a #."""

from pathlib import Path

import pytest

from compress_ssl.pipeline.networks.reference import Reference, parse_reference, with_absolute_path


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
        ("torchvision/resnet50:a.pth", ("torchvision", "resnet50", Path("a.pth"))),
        ("resnet18:a.pth#model_ema", ("file", "resnet18", Path("a.pth"), "model_ema")),
        ("~/a.pth#a.b", ("file", None, Path.home() / "a.pth", "a.b")),
        ("runs/#3/model.safetensors", ("file", None, Path("runs/#3/model.safetensors"))),
        ("a.pth#", ("file", None, Path("a.pth#"))),
    ]:
        assert parse_reference(reference) == Reference(*parts)  # type: ignore[arg-type]


def test_a_reference_with_an_absolute_path_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for reference, absolute in [
        ("resnet18:a.pth#ema", f"resnet18:{tmp_path}/a.pth#ema"),
        ("torchvision/resnet18:a.pth", f"torchvision/resnet18:{tmp_path}/a.pth"),
        ("runs/teacher", f"{tmp_path}/runs/teacher"),
        ("timm/resnet18", "timm/resnet18"),
    ]:
        assert with_absolute_path(reference) == absolute


def test_a_path_with_a_colon_or_a_mark_that_exists_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_reference("monday:noon.pth") == Reference("file", "monday", Path("noon.pth"))
    assert parse_reference("monday:noon") == Reference("user", "monday:noon", None)
    assert parse_reference("resnet18:a#b") == Reference("file", "resnet18", Path("a"), "b")
    Path("monday:noon").mkdir()
    Path("a#b").touch()
    assert parse_reference("monday:noon") == Reference("file", None, Path("monday:noon"))
    assert parse_reference("resnet18:a#b") == Reference("file", "resnet18", Path("a#b"))
