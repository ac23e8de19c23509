"""A network without its classifier: images (B, 3, S, S) in, features (B, F) out."""

from typing import NamedTuple

from torch import nn
from torchvision.ops import StochasticDepth


class Backbone(NamedTuple):
    """A network that returns features, and their dimension."""

    module: nn.Module
    feature_dim: int


def without_head(network: nn.Module) -> Backbone:
    """Replace the last linear layer of a torchvision classifier by the identity, and disable dropout."""
    name, head = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear)][-1]
    network.set_submodule(name, nn.Identity())
    disable_dropout(network)
    return Backbone(network, head.in_features)


def disable_dropout(network: nn.Module) -> None:
    """Set the rates of dropout and stochastic depth to 0.

    The published code of CompRess trains students without them, and a key encoder runs in training mode.
    """
    for layer in network.modules():
        if isinstance(layer, (nn.Dropout, StochasticDepth)):
            layer.p = 0.0
