"""Checkpoints as published projects write them, made from a network whose outputs are known."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

if TYPE_CHECKING:
    from collections.abc import Callable

State = dict[str, torch.Tensor]


def with_batch_statistics(network: nn.Module, seed: int = 0) -> nn.Module:
    """A network as after training: its batch norms are not as they begin."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            bias, mean, variance = torch.rand(3, layer.num_features, generator=generator)
            layer.bias.data, layer.running_mean, layer.running_var = 0.1 * bias, mean - 0.5, 0.5 + variance
    return network.eval()


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


def body(network: nn.Module) -> State:
    return {key: value for key, value in network.state_dict().items() if not key.startswith(("fc.", "classifier.1."))}


def head(width: int = 8) -> State:
    return {"weight": torch.ones(width, 3), "bias": torch.zeros(width)}


def moco(network: nn.Module, fc: State, prefixes: tuple[str, str]) -> dict[str, Any]:
    query = body(network) | under("fc.", fc)
    key = {name: torch.zeros_like(value) for name, value in query.items()}
    queue = {"queue": torch.zeros(8, 16), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    state = under(prefixes[0], query) | under(prefixes[1], key) | queue
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.03}]}
    return {"epoch": 200, "arch": "resnet50", "state_dict": under("module.", state), "optimizer": optimizer}


def flat(network: nn.Module) -> dict[str, Any]:
    """ResNet-50, numbered block by block, in each first block the shortcut before the three convolutions."""
    renamed: State = {}
    number = 0

    def take(conv: str, norm: str) -> None:
        nonlocal number
        at = f"_{number}" if number else ""
        for theirs, ours in ((f"conv2d{at}", conv), (f"batch_normalization{at}", norm)):
            renamed.update(under(f"{theirs}.", network.get_submodule(ours).state_dict()))
        number += 1

    take("conv1", "bn1")
    for layer in ("layer1", "layer2", "layer3", "layer4"):
        for name, block in network.get_submodule(layer).named_children():
            if block.downsample is not None:
                take(f"{layer}.{name}.downsample.0", f"{layer}.{name}.downsample.1")
            for part in "123":
                take(f"{layer}.{name}.conv{part}", f"{layer}.{name}.bn{part}")
    return {"state_dict": renamed | under("fc.", head())}


def dino(network: nn.Module) -> dict[str, Any]:
    dino_head = under("head.mlp.0.", head()) | {"head.last_layer.weight_g": torch.ones(4, 1)}
    teacher = under("backbone.", body(network)) | dino_head
    student = under("module.", {key: torch.zeros_like(value) for key, value in teacher.items()})
    return {
        "student": student,
        "teacher": teacher,
        "args": argparse.Namespace(arch="resnet50", lr=np.float64(0.1)),
        "dino_loss": {"center": torch.zeros(1, 4)},
    }


def projected(network: nn.Module, projector: State) -> dict[str, Any]:
    state = under("module.", under("backbone.", body(network)) | projector)
    return {"epoch": 1000, "model": state, "optimizer": {}}


def lightning(network: nn.Module, prefix: str, beside: State) -> dict[str, Any]:
    momentum = under(f"momentum_{prefix}", {key: torch.zeros_like(value) for key, value in body(network).items()})
    state = under(prefix, body(network)) | momentum | beside
    parameters = argparse.Namespace(lr=0.3)
    return {"state_dict": state, "hyper_parameters": parameters, "pytorch-lightning_version": "1.9.5"}


def lightly(network: nn.Module) -> dict[str, Any]:
    row = nn.Sequential(*list(network.children())[:-1]).state_dict()
    return {"state_dict": under("backbone.", row) | under("projection_head.layers.0.", head()), "epoch": 9}


def compress_alexnet(network: nn.Module) -> dict[str, Any]:
    """Their AlexNet calls its two hidden linear layers ``feats``, without dropout between them."""
    state = under("features.", network.get_submodule("features").state_dict()) | under("fc.", head())
    for theirs, ours in (("feats.0.", "classifier.1"), ("feats.2.", "classifier.4")):
        state |= under(theirs, network.get_submodule(ours).state_dict())
    return {"opt": argparse.Namespace(student_arch="alexnet"), "model": under("module.", state), "epoch": 130}


def compress(network: nn.Module) -> dict[str, Any]:
    """As with one queue: a linear layer to the teacher's dimension, called ``fc`` in each architecture."""
    state = under("module.", body(network) | under("fc.", head()))
    return {"opt": argparse.Namespace(student_arch="?"), "model": state, "optimizer": {}, "epoch": 130}


WRITERS: dict[str, Callable[[nn.Module], Any]] = {
    "simclr-flat": flat,
    "moco-v1": lambda network: moco(network, head(128), ("encoder_q.", "encoder_k.")),
    "moco-v2": lambda network: moco(
        network, under("0.", head()) | under("2.", head(128)), ("encoder_q.", "encoder_k.")
    ),
    "moco": lambda network: {"state_dict": under("module.encoder_q.", body(network))},
    "moco-v3": lambda network: moco(network, under("0.", head()), ("base_encoder.", "momentum_encoder.")),
    "moco-v3-momentum": lambda network: {"state_dict": under("module.momentum_encoder.", body(network))},
    "swav": lambda network: under(
        "module.", body(network) | under("projection_head.0.", head()) | {"prototypes.weight": torch.zeros(30, 8)}
    ),
    "dino": dino,
    "vissl": lambda network: {
        "classy_state_dict": {"base_model": {"model": {"trunk": under("_feature_blocks.", body(network))}}}
    },
    "compress-alexnet": compress_alexnet,
    "solo-learn": lambda network: lightning(
        network, "backbone.", under("classifier.", head()) | under("projector.0.", head())
    ),
    "lightly": lightly,
    "barlow-twins": lambda network: projected(
        network, {"projector.0.weight": torch.zeros(8, 3), "bn.running_mean": torch.zeros(8)}
    ),
    "vicreg": lambda network: projected(network, under("projector.0.", head())),
    "backbone": lambda network: lightning(network, "backbone.", under("projection_head.layers.0.", head())),
    "encoder": lambda network: lightning(network, "encoder.", under("classifier.", head())),
    "model": lambda network: lightning(network, "model.", {}),
    "compress": compress,
    "plain": lambda network: network.state_dict(),
}


@pytest.fixture(scope="session")
def writers() -> dict[str, Callable[[nn.Module], Any]]:
    """For each layout a function from a torchvision network, with its classifier, to what ``torch.save`` was given."""
    return WRITERS


@pytest.fixture(scope="session")
def published_network() -> Callable[[str], nn.Module]:
    """Networks of torchvision, with classifier, as after training; each is built once."""
    built: dict[str, nn.Module] = {}

    def get(name: str) -> nn.Module:
        if name not in built:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(len(name))
                built[name] = with_batch_statistics(models.get_model(name, weights=None))
        return built[name]

    return get
