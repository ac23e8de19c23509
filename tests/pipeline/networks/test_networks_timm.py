"""timm's networks: features, names and preprocessing against timm's own."""

import re
from pathlib import Path

import pytest
import timm
import torch
from timm.data import create_transform, resolve_data_config
from timm.layers import resample_abs_pos_embed
from torchvision import transforms

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.pipeline.networks.architectures import build_backbone, check_architecture, default_preprocessing
from compress_ssl.pipeline.networks.network import Network, load_network, save_network
from compress_ssl.pipeline.networks.preprocessing import Preprocessing

# name, features, side of an image
QUICK = [
    ("resnet18", 512, 32),
    ("efficientnet_b0", 1280, 32),
    ("mobilenetv3_small_100", 1024, 32),
    ("vit_tiny_patch16_224", 192, 224),
    ("levit_128s", 384, 224),
]

# Teachers, on the meta device: name, features, their own image size, and another multiple of their patch size.
TEACHERS = [
    ("vit_small_patch14_dinov2.lvd142m", 384, 518, 224),
    ("vit_base_patch14_reg4_dinov2.lvd142m", 768, 518, 98),
    ("vit_small_patch16_dinov3.lvd1689m", 384, 256, 224),
    ("convnext_tiny.dinov3_lvd1689m", 768, 224, 96),
    ("vit_base_patch16_clip_224.openai", 768, 224, 160),
    ("vit_base_patch16_siglip_224.webli", 768, 224, 256),
    ("vit_base_patch16_dinov3.lvd1689m", 768, 256, 512),
]


def pictures(size: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "dim", "size"), QUICK)
def test_features_are_those_that_timm_pools(name: str, dim: int, size: int) -> None:
    ours = build_backbone(f"timm/{name}", 3)
    theirs = timm.create_model(name, num_classes=0)
    theirs.load_state_dict(ours.module.state_dict())
    with torch.no_grad():
        features = ours.module.eval()(pictures(size))
        torch.testing.assert_close(features, theirs.eval()(pictures(size)), rtol=0, atol=0)
    assert features.shape == (2, dim)
    assert ours.feature_dim == dim


@pytest.mark.parametrize(("name", "dim", "native", "other"), TEACHERS)
def test_teachers_take_their_own_size_and_others(name: str, dim: int, native: int, other: int) -> None:
    with torch.device("meta"):
        module, feature_dim = build_backbone(f"timm/{name}")
        assert default_preprocessing(f"timm/{name}").size == native
        for size in (native, other):
            assert module.eval()(torch.zeros(2, 3, size, size)).shape == (2, feature_dim) == (2, dim)


def test_patches_that_do_not_fill_the_image_are_cut_as_timm_does() -> None:
    """SigLIP's so400m sees 384 pixels in patches of 14."""
    name = "vit_so400m_patch14_siglip_384.webli"
    with torch.device("meta"):
        module, feature_dim = build_backbone(f"timm/{name}")
        assert module.eval()(torch.zeros(2, 3, 384, 384)).shape == (2, feature_dim) == (2, 1152)


@pytest.mark.parametrize("size", [64, 96])
def test_other_sizes_interpolate_the_position_embedding_as_timm_does_for_pretrained_weights(size: int) -> None:
    module = build_backbone("timm/vit_tiny_patch16_224").module
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=size)
    state = module.state_dict()
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], new_size=[size // 16] * 2)
    theirs.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(module.eval()(pictures(size)), theirs.eval()(pictures(size)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [("vit_tiny_patch16_224", 30, "divisible by patch size"), ("cait_xxs24_224", 64, ""), ("levit_128s", 64, "")],
)
def test_size_that_a_network_cannot_take_is_one_sentence(name: str, size: int, reason: str) -> None:
    network = Network(name, f"timm/{name}", *build_backbone(f"timm/{name}"), Preprocessing())
    with pytest.raises(
        InputError, match=rf"timm/{name} cannot take images of {size} pixels .*; take another"
    ) as caught:
        network.check_size(size)
    assert reason in str(caught.value)
    network.check_size(224)


def test_network_with_one_tensor_under_several_names_is_written_and_read(tmp_path: Path) -> None:
    module, feature_dim = build_backbone("timm/coat_lite_tiny")
    assert len({value.data_ptr() for value in module.state_dict().values()}) < len(module.state_dict())
    save_network(tmp_path / MODEL_FILE, Network("run", "timm/coat_lite_tiny", module, feature_dim, Preprocessing()))
    again = load_network(str(tmp_path))
    assert (again.architecture, again.feature_dim) == ("timm/coat_lite_tiny", 320)
    with torch.no_grad():
        features = again.module.eval()(pictures(224))
        torch.testing.assert_close(features, module.eval()(pictures(224)), rtol=0, atol=0)


@pytest.mark.parametrize(
    "name", ["efficientnet_b0", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto", "nfnet_f0"]
)
def test_there_is_no_dropout_in_training(name: str) -> None:
    module = build_backbone(f"timm/{name}").module.train()
    size = default_preprocessing(f"timm/{name}").size
    with torch.no_grad():
        torch.testing.assert_close(module(pictures(size)), module(pictures(size)), rtol=0, atol=0)


def test_preprocessing_is_that_of_timms_evaluation() -> None:
    for name in [
        "vit_small_patch14_dinov2.lvd142m",
        "vit_small_patch16_dinov3.lvd1689m",
        "vit_base_patch16_clip_224.openai",
        "vit_base_patch16_siglip_224.webli",
        "vit_tiny_patch16_224",
        "resnet50.a1_in1k",
        "resnet18.tv_in1k",
        "mobilenetv2_100.ra_in1k",
        "inception_v3.tv_in1k",
    ]:
        config = resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        resize, crop, _, normalise = create_transform(**config, is_training=False).transforms
        wants = default_preprocessing(f"timm/{name}")
        assert isinstance(resize, transforms.Resize)
        assert isinstance(crop, transforms.CenterCrop)
        assert (wants.resize, wants.size) == (resize.size, crop.size[0])
        assert wants.interpolation == resize.interpolation.value
        assert wants.mean == pytest.approx(tuple(normalise.mean.tolist()))
        assert wants.std == pytest.approx(tuple(normalise.std.tolist()))


def test_weights_are_those_of_the_seed() -> None:
    first, again, other = (build_backbone("timm/vit_tiny_patch16_224", seed).module.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not torch.equal(first["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])


def test_misspelt_name_is_answered_with_the_nearest_and_not_with_a_thousand() -> None:
    for wrong, meant in [
        ("vit_small_patch14_dinov2.lvd143m", "vit_small_patch14_dinov2.lvd142m"),
        ("vit_small_patch16_dinov4", "vit_small_patch16_dinov3"),
        ("efficentnet_b0", "efficientnet_b0"),
        ("ResNet50", "resnet50"),
    ]:
        with pytest.raises(
            InputError, match=re.escape(f"There is no timm network '{wrong}'. Did you mean '{meant}'?")
        ) as caught:
            check_architecture(f"timm/{wrong}")
        assert len(str(caught.value)) < 400
        assert str(caught.value).endswith("All are listed by: compress-ssl models 'timm/*PART-OF-NAME*'")


def test_networks_whose_features_are_not_one_vector_and_other_places_are_not_offered() -> None:
    for name in ["timm/gemma4_vit_167m_enc", "timm/", "timm/hf-hub:timm/resnet50"]:
        with pytest.raises(InputError, match="There is no timm network"):
            build_backbone(name)
