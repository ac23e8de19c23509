"""The network as it embeds: its weights cast once, compiled, its embeddings taken one batch later."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._inductor.config
from torch import nn

from compress_ssl.pipeline.common.device import autocast
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.embed import block
from compress_ssl.pipeline.embed.embedder import cast_weights
from compress_ssl.pipeline.images.renderers.dali import DaliRenderer
from compress_ssl.pipeline.networks.network import load_network
from compress_ssl.storage import EmbeddingStore

Embedded = Callable[..., EmbeddingStore]


def embeddings(store: EmbeddingStore) -> dict[tuple[str, int], bytes]:
    views = [(name, view) for name in store.split_names for view in store[name].complete_views]
    return {(name, view): store[name].view(view).tobytes() for name, view in views}


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *(("resnet18", 64), ("mobilenet_v2", 64), ("timm/tf_efficientnet_lite0", 64)),
        *(pytest.param("vit_b_32", 224, marks=pytest.mark.slow), ("timm/vit_tiny_patch16_224", 224)),
    ],
)
def test_weights_cast_once_give_the_features_of_autocast_bit_for_bit(name: str, size: int) -> None:
    network = load_network(f"random/{name}")
    network.module.eval()
    cast = cast_weights(network, "bfloat16")
    images = torch.randint(0, 256, (1, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        with autocast(torch.device("cpu"), "bfloat16"):
            expected, found = network.features(images), cast.features(images)
        exact = network.features(images)
    assert torch.equal(found, expected)
    assert not torch.equal(found.float(), exact)
    types = {parameter.dtype for parameter in cast.module.parameters()}
    assert types == {torch.bfloat16, torch.float32}
    assert {parameter.dtype for parameter in network.module.parameters()} == {torch.float32}


def test_weights_that_a_layer_computes_with_in_float32_stay_so() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            weight = (self.weight - self.weight.mean()) / self.weight.std()
            return nn.functional.conv2d(images, weight)

    network = load_network("random/conv4-16")
    network.module[0] = Standardised(3, 16, 3)  # type: ignore[operator]
    assert cast_weights(network, "bfloat16").module[0].weight.dtype == torch.float32  # type: ignore[index, union-attr]


def test_blocks_of_a_split_are_one_stream(
    data: Path, tmp_path: Path, embedded: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rendered by one pipeline that is not drained between blocks, though batches end with their blocks."""
    streams: list[list[int]] = []
    geometry = DaliRenderer.geometry

    def noting(renderer: DaliRenderer, batches: Any, batch_size: int) -> Any:
        streams.append([])
        for views in geometry(renderer, batches, batch_size):
            streams[-1].append(len(views[0]))
            yield views

    monkeypatch.setattr(DaliRenderer, "geometry", noting)
    embedded(data, tmp_path / "store.zarr")
    canaries, blocks = streams[:2], streams[2:]
    assert len(canaries) == 2
    assert blocks == [[5, 4] * 4, [5, 3]]  # of blocks of nine and batches of five images: ``train``, then ``val``


def test_embeddings_taken_one_batch_later_are_the_same(
    data: Path, tmp_path: Path, embedded: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, which computes the first batch of a block before the last one of the block before is taken."""
    at_once = embedded(data, tmp_path / "at-once.zarr")
    monkeypatch.setitem(block.BATCHES_AHEAD, "cpu", 1)
    later = embedded(data, tmp_path / "later.zarr")
    assert embeddings(later) == embeddings(at_once)
    assert len(embeddings(later)) == 4


@pytest.mark.parametrize("bad", [range(9, 18), range(27, 36), [0, 8, 9]])
def test_blocks_without_a_good_image_are_written_too(data: Path, tmp_path: Path, embedded: Embedded, bad: Any) -> None:
    paths = sorted((data / "train").glob("*/*"))
    whole = embedded(data, tmp_path / "whole.zarr", batch_size=1)["train"].view(1)
    for row in bad:
        paths[row].write_bytes(b"no image")
    found = embedded(data, tmp_path / "store.zarr", batch_size=1, on_bad_image="skip")["train"].view(1)
    good = np.setdiff1d(np.arange(36), list(bad))
    assert np.isnan(found[list(bad)]).all()
    assert found[good].tobytes() == whole[good].tobytes()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("error:Dynamo detected")  # a user would read it
@pytest.mark.filterwarnings("ignore")
def test_compiled_teacher_embeds_the_same_and_resumes_to_the_same_bytes(
    data: Path, tmp_path: Path, embedded: Embedded, compiled_graphs: Callable[[], int], conv1: str
) -> None:
    """Batches of 5 and 4 images; the second run begins in the middle."""
    settings = {"teacher": f"random/{conv1}", "precision": "bfloat16", "split": ("train:1",)}
    plain = embedded(data, tmp_path / "plain.zarr", **settings)
    assert compiled_graphs() == 0
    whole = embedded(data, tmp_path / "whole.zarr", compile=True, **settings)
    assert compiled_graphs() == 1
    embedded(data, tmp_path / "parts.zarr", compile=True, part="2/2", **settings)
    parts = embedded(data, tmp_path / "parts.zarr", compile=True, resume=True, **settings)
    assert whole.attributes["computed_with"]["compiled"] is True
    assert plain.attributes["computed_with"]["compiled"] is False
    assert embeddings(parts) == embeddings(whole)
    np.testing.assert_allclose(whole["train"].view(1), plain["train"].view(1), rtol=3e-2, atol=3e-2)


@pytest.mark.filterwarnings("ignore")
def test_compiling_without_a_compiler_is_refused_before_anything_is_written(
    data: Path, tmp_path: Path, embedded: Embedded, compiled_graphs: Callable[[], int]
) -> None:
    sentence = r"cannot be compiled \(.*; install a C\+\+ compiler, or leave --compile out"
    no_compiler = torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")})
    with no_compiler, pytest.raises(InputError, match=sentence):
        embedded(data, tmp_path / "store.zarr", compile=True)
    assert not (tmp_path / "store.zarr").exists()
