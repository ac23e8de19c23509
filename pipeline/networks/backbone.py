"""A network without its classifier: images (B, 3, S, S) in, features (B, F) out."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn
from torchvision.ops import StochasticDepth


class Backbone(NamedTuple):
    """A network that gives features, and how many."""

    module: nn.Module
    feature_dim: int


def without_head(network: nn.Module) -> Backbone:
    """Take a torchvision classifier's last linear layer away, and silence its dropout."""
    name, head = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear)][-1]
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, nn.Identity())
    disable_dropout(network)
    return Backbone(network, head.in_features)


def disable_dropout(network: nn.Module) -> None:
    """Make training see what evaluation sees: no dropout, no stochastic depth.

    Students are trained without (CompRess, published code), and a key encoder runs in training mode.
    """
    for layer in network.modules():
        if isinstance(layer, (nn.Dropout, StochasticDepth)):
            layer.p = 0.0
