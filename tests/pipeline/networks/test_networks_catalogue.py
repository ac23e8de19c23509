"""Parameters and operations of networks, against torchvision's own counts, published figures and a count by hand."""

import pytest
import torch
from torch import nn
from torchvision import models

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.networks.architectures import build_backbone
from compress_ssl.pipeline.networks.catalogue import (
    STUDENTS,
    count_flops,
    describe_network,
    describe_student,
    matching_names,
)
from compress_ssl.pipeline.networks.preprocessing import Preprocessing
from compress_ssl.pipeline.networks.teachers import TEACHERS


def test_convolution_and_linear_layer_are_counted_as_by_hand() -> None:
    with torch.device("meta"):
        network = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10))
    # 4 x 4 places x 8 channels x (5 x 5 x 3) products, and 128 x 10; two operations each
    assert count_flops(network, 8) == 2 * (4 * 4 * 8 * 75 + 128 * 10)


def test_counts_are_torchvisions_without_the_classifier() -> None:
    """With the classifier, torchvision publishes 10^9 multiply-adds and parameters."""
    for name in [
        "alexnet",
        "resnet18",
        "resnet34",
        "resnet50",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "mobilenet_v3_large",
        "efficientnet_b0",
        "regnet_y_400mf",
        "vit_b_16",
        "swin_t",
    ]:
        ours, weights = describe_network(name), models.get_model_weights(name).DEFAULT
        assert ours.parameters == weights.meta["num_params"] - 1000 * (ours.feature_dim + 1)
        theirs = 2e9 * weights.meta["_ops"] - 2 * 1000 * ours.feature_dim
        assert ours.flops == pytest.approx(theirs, rel=0.01)


def test_operations_are_the_published_ones() -> None:
    for name, gflops, digits in [
        ("resnet50", 8.2, 1),  # 4.1 x 10^9 multiply-adds (He et al. 2016 counts 3.8 without its last version's strides)
        ("alexnet", 1.4, 1),
        ("mobilenet_v2", 0.6, 1),  # 300 x 10^6 (Sandler et al. 2018, table 4)
        ("timm/vit_small_patch16_224", 9.2, 1),  # 4.6 x 10^9 (Touvron et al. 2021, DeiT-S)
        ("timm/vit_tiny_patch16_224", 2.5, 1),  # 1.25 x 10^9 (DeiT-Ti)
    ]:
        assert round(describe_network(name).flops / 1e9, digits) == gflops


def test_every_student_is_described() -> None:
    for name in STUDENTS:
        student = describe_student(name)
        with torch.device("meta"):
            built = build_backbone(name)
        assert student.feature_dim == built.feature_dim
        assert student.parameters == sum(parameter.numel() for parameter in built.module.parameters())
        assert student.flops > 1e7
        assert student.preprocessing.size == (32 if name.endswith("-32px") else 224)
        assert (student.preprocessing.mean, student.preprocessing.std) == (Preprocessing().mean, Preprocessing().std)
        assert student.note


def test_every_teacher_is_described() -> None:
    for name in TEACHERS:
        teacher = describe_network(name)
        width = int(name.partition("-w")[2][:1] or 1)
        assert teacher.feature_dim == 2048 * width
        assert teacher.preprocessing == TEACHERS[name].preprocessing
        assert (teacher.note, teacher.weights) == (TEACHERS[name].citation, TEACHERS[name].weights)


def test_pattern_is_answered_with_the_names_that_fit() -> None:
    assert matching_names("resnet50-w?") == ["resnet50-w2", "resnet50-w4", "resnet50-w5"]
    assert matching_names("simclr*w4") == ["simclr-resnet50-w4"]
    assert "timm/vit_small_patch14_dinov2.lvd142m" in matching_names("timm/*small*dinov2*")
    assert matching_names("whatever") == ["whatever"]
    with pytest.raises(
        InputError, match=r"No name of a network matches 'dinov2\*'; the names of timm start with timm/."
    ):
        matching_names("dinov2*")
