"""The ONNX file against its network; what cannot be written, and what is not the same."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from compress_ssl.pipeline.common.errors import InputError, RunError
from compress_ssl.pipeline.export import onnx as writing
from compress_ssl.pipeline.export.onnx import compare, sample_photographs, write_onnx
from compress_ssl.pipeline.networks.network import Network
from compress_ssl.pipeline.networks.preprocessing import Preprocessing

NetworkOf = Callable[[str, int], Network]


def test_normalisation_is_inside_for_teachers_that_want_plain_pixels_too(network_of: NetworkOf, tmp_path: Path) -> None:
    plain = replace(network_of("conv4-16", 16), preprocessing=Preprocessing((0, 0, 0), (1, 1, 1), 16, 16, "bicubic"))
    agreement = write_onnx(plain, tmp_path / "model.onnx")
    assert agreement.images == 8
    assert agreement.relative < 1e-5
    other = replace(plain, preprocessing=Preprocessing(size=16, resize=16, interpolation="bicubic"))
    assert compare(other, tmp_path / "model.onnx").relative > 0.1


def test_photographs_are_real_and_differ() -> None:
    photographs = sample_photographs(Preprocessing(size=32, resize=36))
    assert photographs.shape == (8, 32, 32, 3)
    assert photographs.dtype == torch.uint8
    assert len({window.numpy().tobytes() for window in photographs}) == 8
    assert photographs.float().std(dim=(1, 2)).min() > 10


def test_weights_that_protobuf_cannot_hold_get_a_file_of_their_own_and_none_tells_where_it_was_made(
    network_of: NetworkOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "LARGEST_FILE", 1000)
    write_onnx(network_of("conv4-16", 16), tmp_path / "model.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    onnx.checker.check_model(tmp_path / "model.onnx")
    content = (tmp_path / "model.onnx").read_bytes()
    assert b".py" not in content
    assert str(Path(torch.__file__).parents[1]).encode() not in content


class Forgetful(nn.Module):
    """Gives what the exporter cannot see: something else at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return torch.rand_like(images.mean((2, 3))) * self.scale


class Branching(nn.Module):
    """Looks at the pixels' values to choose its way, which no graph can say."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) * (self.scale if float(images.mean()) > 0 else 2)


def custom(module: nn.Module) -> Network:
    return Network("custom", "custom", module, 3, Preprocessing(size=8, resize=8))


def test_other_features_than_torchs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"features of 8 photographs differ from torch's by up to .* export with --no-onnx"
    ):
        write_onnx(custom(Forgetful()), tmp_path / "model.onnx")


def test_weights_that_are_not_numbers_are_refused(network_of: NetworkOf, tmp_path: Path) -> None:
    network = network_of("conv4-16", 16)
    next(network.module.parameters()).data.fill_(float("nan"))
    with pytest.raises(RunError, match="look for weights that are not finite"):
        write_onnx(network, tmp_path / "model.onnx")


def test_network_that_torch_cannot_write_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"custom cannot be written as ONNX \(.+\); export with --no-onnx") as error:
        write_onnx(custom(Branching()), tmp_path / "model.onnx")
    assert "\n" not in str(error.value)
