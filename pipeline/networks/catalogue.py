"""What ``compress-ssl models`` tells of networks, found without weights: they are built on torch's meta device."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from compress_ssl.pipeline.common.errors import InputError, unknown_name
from compress_ssl.pipeline.networks.architectures import (
    LISTED_BY,
    TIMM,
    architecture_names,
    build_backbone,
    default_preprocessing,
)
from compress_ssl.pipeline.networks.backbone import Backbone
from compress_ssl.pipeline.networks.preprocessing import Preprocessing
from compress_ssl.pipeline.networks.pretrained import check_torchvision, torchvision_preprocessing
from compress_ssl.pipeline.networks.reference import parse_reference
from compress_ssl.pipeline.networks.students import STUDENTS
from compress_ssl.pipeline.networks.teachers import TEACHERS
from compress_ssl.pipeline.networks.timm_models import timm_names

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Description:
    """A network without its classifier, in numbers."""

    name: str
    architecture: str
    feature_dim: int
    parameters: int
    flops: int
    """Of one image of its own size: convolutions and matrix products, two for each multiply-add."""
    preprocessing: Preprocessing
    note: str
    """A teacher's citation, a student's word of explanation."""
    weights: str | None
    """Where a teacher's published file is found."""


def describe_teacher(name: str) -> Description:
    """Describe a teacher of ``TEACHERS``."""
    teacher = TEACHERS[name]
    return _describe(name, teacher.architecture, teacher.preprocessing, teacher.citation, teacher.weights)


def describe_student(name: str) -> Description:
    """Describe a student of ``STUDENTS``; all of them see ImageNet's mean and deviation."""
    wants = default_preprocessing(name)
    return _describe(name, name, Preprocessing(size=wants.size, resize=wants.resize), STUDENTS[name])


def describe_network(name: str) -> Description:
    """Describe a teacher, an architecture as it wants to see images, or ``torchvision/NAME`` as its weights do.

    Raises
    ------
    InputError
        If there is no such network; names the nearest.
    """
    reference = parse_reference(name)
    architecture = reference.name or name
    if architecture in TEACHERS:
        return describe_teacher(architecture)
    if reference.kind == "torchvision":
        check_torchvision(architecture)
        return _describe(name, architecture, torchvision_preprocessing(architecture))
    if not architecture.startswith(TIMM) and architecture not in architecture_names():
        raise unknown_name("network", name, [*TEACHERS, *architecture_names()], listed_by=LISTED_BY)
    return _describe(name, architecture, default_preprocessing(architecture), STUDENTS.get(architecture, ""))


def _describe(
    name: str, architecture: str, preprocessing: Preprocessing, note: str = "", weights: str | None = None
) -> Description:
    module, feature_dim = _without_weights(architecture)
    return Description(
        name=name,
        architecture=architecture,
        feature_dim=feature_dim,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        flops=count_flops(module, preprocessing.size),
        preprocessing=preprocessing,
        note=note,
        weights=weights,
    )


def count_flops(network: nn.Module, size: int) -> int:
    """Count what one image of ``size`` pixels costs: convolutions and matrix products, two for each multiply-add.

    Parameters
    ----------
    network : nn.Module
        On the meta device.
    """
    counter = FlopCounterMode(display=False)
    # With gradients: without, torch fuses a transformer's layers into operations that are not counted.
    with counter, torch.enable_grad():
        network.eval()(torch.zeros(1, 3, size, size, device="meta"))
    return int(counter.get_total_flops())


def matching_names(pattern: str) -> list[str]:
    """Names that fit a pattern with ``*`` and ``?``; a name without them is its own only one.

    Raises
    ------
    InputError
        If no name fits.
    """
    if not {"*", "?"} & set(pattern):
        return [pattern]
    known = (
        [f"{TIMM}{name}" for name in timm_names()] if pattern.startswith(TIMM) else [*TEACHERS, *architecture_names()]
    )
    names = fnmatch.filter(known, pattern)
    if not names:
        raise InputError(f"No network's name fits '{pattern}'; those of timm begin with {TIMM}.")
    return names


def _without_weights(architecture: str) -> Backbone:
    try:
        with torch.device("meta"):
            return build_backbone(architecture)
    except NotImplementedError:  # RegNet reads numbers off tensors while it is built
        module, feature_dim = build_backbone(architecture)
        return Backbone(module.to("meta"), feature_dim)
