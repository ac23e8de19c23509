"""Pools of timm's transformers: against sums over the tokens in float64, and against timm's own ``global_pool``."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.pipeline.embed.embedder import cast_weights
from compress_ssl.pipeline.export.onnx import NormalizedNetwork
from compress_ssl.pipeline.networks.network import Network, load_network, save_network, weights_sha256
from compress_ssl.pipeline.networks.pooling import (
    AUTHORS,
    authors_pool,
    check_pool,
    forward_pool,
    pooled_features,
    pools_of,
)
from compress_ssl.pipeline.networks.preprocessing import Preprocessing
from compress_ssl.pipeline.networks.timm_models import timm_backbone
from tests.tiny_timm import TINY_DINOV3

SMALL: dict[str, Any] = {"depth": 2, "embed_dim": 64, "num_heads": 2}

# name, tokens before those of the patches, its own pool, all pools
NETWORKS = [
    ("vit_tiny_patch16_224", 1, "token", ["token", "avg", "token+avg"]),
    ("vit_small_patch14_reg4_dinov2", 5, "token", ["token", "avg", "token+avg"]),
    ("vit_small_patch16_dinov3", 5, "avg", ["avg", "token", "token+avg"]),
    ("vit_base_patch16_siglip_224", 0, "map", ["map", "avg"]),
    ("vit_pe_core_tiny_patch16_384", 1, "map", ["map", "token", "avg", "token+avg"]),
    ("vit_tiny_r_s16_p8_224", 1, "token", ["token", "avg", "token+avg"]),
    ("eva02_tiny_patch14_224", 1, "avg", ["avg", "token", "token+avg"]),
]


def small(name: str, **options: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    module = timm_backbone(name, **SMALL, **options).module.eval()
    for norm in (module.norm, module.fc_norm):  # as after training: a norm that does not merely normalise
        if isinstance(norm, torch.nn.LayerNorm):
            torch.nn.init.normal_(norm.weight)
            torch.nn.init.normal_(norm.bias)
    return module


def pictures(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "prefix", "own", "pools"), NETWORKS)
def test_pools_are_those_of_the_tokens_in_float64(name: str, prefix: int, own: str, pools: list[str]) -> None:
    module: Any = small(name)
    assert (forward_pool(module), pools_of(module)) == (own, pools)
    side = 2 * module.patch_embed.patch_size[0] * (16 if "_r_" in name else 1)
    images = pictures(module.patch_embed.img_size[0] if own == "map" else side)
    with torch.no_grad():
        tokens = module.forward_features(images)
        rows = [[row.double() for row in image] for image in tokens]
        token = torch.stack([image[0] for image in rows])
        patches = [image[prefix:] for image in rows]
        assert all(len(image) == len(tokens[0]) - prefix for image in patches)
        avg = torch.stack([sum(image[1:], image[0]) / len(image) for image in patches])
        norm = module.fc_norm.double() if isinstance(module.fc_norm, torch.nn.LayerNorm) else torch.nn.Identity()
        expected = {"token": norm(token), "avg": norm(avg)}
        expected["token+avg"] = torch.cat([expected["token"], expected["avg"]], dim=1)
        module.fc_norm.float()
        for pool in pools:
            found = pooled_features(module, images, pool)
            if pool == own:
                torch.testing.assert_close(found, module(images), rtol=0, atol=0)
            if pool in expected:
                torch.testing.assert_close(found.double(), expected[pool], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "pool"),
    [
        (name, pool)
        for name, *_, pools in NETWORKS
        for pool in pools
        if pool in ("token", "avg") and name != "vit_pe_core_tiny_patch16_384"  # timm builds it with attention pooling
    ],
)
def test_a_pool_is_what_timm_computes_with_this_global_pool(name: str, pool: str) -> None:
    """The final norm moves with the pool in timm, unless it is told to leave it where the published weights have it."""
    module: Any = small(name)
    place = "use_fc_norm" if type(module).__name__ == "Eva" else "fc_norm"
    after = isinstance(module.fc_norm, torch.nn.LayerNorm)
    theirs = timm.create_model(name, num_classes=0, global_pool=pool, **{place: after}, **SMALL).eval()
    state = {key: value for key, value in module.state_dict().items() if not key.startswith("attn_pool")}
    theirs.load_state_dict(state)
    images = pictures(module.patch_embed.img_size[0] if "_r_" not in name else 224)
    with torch.no_grad():
        torch.testing.assert_close(pooled_features(module, images, pool), theirs(images), rtol=0, atol=1e-6)


def test_networks_without_tokens_offer_their_average_or_nothing_and_say_so() -> None:
    for name, offered in [("resnet18", ["avg"]), ("deit_tiny_distilled_patch16_224", [])]:
        assert pools_of(timm_backbone(name).module) == offered
    with pytest.raises(InputError, match=r"resnet18 has no pool 'token': no pool can be chosen for it; take another"):
        load_network("random/resnet18", pool="token")
    with pytest.raises(InputError, match=r"timm/resnet18 has no pool 'map': it has avg; take another one, or 'own'\."):
        load_network("random/timm/resnet18", pool="map")
    assert load_network("random/timm/resnet18", pool="avg").pool is None
    with pytest.raises(InputError, match="siglip has no pool 'token': it has map, avg;"):
        check_pool(small("vit_base_patch16_siglip_224"), "siglip", "token")


def test_own_is_what_the_authors_evaluate_for_published_weights_and_the_forward_pass_else(tmp_path: Path) -> None:
    untrained = load_network(f"random/{TINY_DINOV3}")
    assert (untrained.pool, untrained.own_pool) == ("avg", "avg")
    save_file(untrained.module.state_dict(), tmp_path / "published.safetensors")
    published = load_network(f"{TINY_DINOV3}:{tmp_path / 'published.safetensors'}")
    assert (published.pool, published.own_pool, published.feature_dim) == ("token", "token", 64)
    both = load_network(f"{TINY_DINOV3}:{tmp_path / 'published.safetensors'}", pool="token+avg")
    assert (both.pool, both.own_pool, both.feature_dim) == ("token+avg", "token", 128)
    assert len({weights_sha256(network.module) for network in (untrained, published, both)}) == 1
    assert [network.identity()["pool"] for network in (untrained, published, both)] == ["avg", "token", "token+avg"]
    assert "pool" not in load_network("random/conv4-16").identity()


def test_a_file_of_ours_keeps_a_pool_that_is_not_its_forward_pass(tmp_path: Path) -> None:
    network = load_network(f"random/{TINY_DINOV3}", pool="token")
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    for pool in ("token", "avg", "token+avg"):
        save_network(tmp_path / MODEL_FILE, load_network(f"random/{TINY_DINOV3}", pool=pool))
        with safe_open(tmp_path / MODEL_FILE, framework="pt") as opened:
            header = json.loads(opened.metadata()["compress_ssl"])
        assert header.get("pool") == (None if pool == "avg" else pool)
        assert load_network(str(tmp_path)).pool == pool
        again = load_network(str(tmp_path), pool="token")
        with torch.no_grad():
            torch.testing.assert_close(again.features(images), network.features(images), rtol=0, atol=0)


def test_a_cast_a_compiled_and_an_exported_network_pool_the_same(tmp_path: Path) -> None:
    network = load_network(f"random/{TINY_DINOV3}", pool="token+avg")
    network.module.eval()
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected = network.features(images)
        assert expected.shape == (2, network.feature_dim)
        exported = NormalizedNetwork(network)(images.permute(0, 3, 1, 2) / 255)
        torch.testing.assert_close(exported, expected, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            found, theirs = cast_weights(network, "bfloat16").features(images), network.features(images)
        torch.testing.assert_close(found, theirs, rtol=0, atol=0)
        traced = torch.compile(network.features, backend="eager", fullgraph=True)(images)
        torch.testing.assert_close(traced, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pattern", AUTHORS)
def test_authors_pool_is_one_that_the_network_has_and_timm_s_except_for_dinov3(pattern: str) -> None:
    names = [name for name in timm.list_models(include_tags=True) if re.fullmatch(pattern, name)]
    assert names
    assert all(authors_pool(f"timm/{name}") == AUTHORS[pattern].pool for name in names)
    name = min(names, key=len)
    with torch.device("meta"):
        module = timm_backbone(name, depth=1).module
    assert AUTHORS[pattern].pool in pools_of(module)
    assert (forward_pool(module) == AUTHORS[pattern].pool) is ("dinov3" not in pattern)


def test_no_authors_are_known_of_other_networks() -> None:
    for name in ("timm/vit_base_patch16_siglip_gap_224.webli", "timm/vit_tiny_patch16_224", "resnet50", "conv4-16"):
        assert authors_pool(name) is None
    network = Network("run", "timm/vit_tiny_patch16_224", small("vit_tiny_patch16_224"), 64, Preprocessing())
    assert replace(network, pool="avg").identity()["pool"] == "avg"
