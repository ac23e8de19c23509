"""torch.compile in the tests' process, and a network that it compiles in seconds."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch._dynamo.utils
import torch._inductor.config
from torch import nn

from compress_ssl.pipeline.networks.architectures import OURS
from compress_ssl.pipeline.networks.backbone import Backbone


@pytest.fixture
def compiled_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Count the graphs that torch.compile makes in this test, where nothing is compiled yet."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    with torch._inductor.config.patch(compile_threads=1):  # no pool of processes, which import torch
        yield lambda: torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.fixture
def conv1(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of an architecture of one layer: torch.compile takes seconds for each."""

    def build() -> Backbone:
        layers = [nn.Conv2d(3, 16, 3, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
        return Backbone(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 16)

    monkeypatch.setitem(OURS, "conv1", build)
    return "conv1"
