"""What every network is here, without its classifier: images (B, 3, S, S) in, features (B, F) out."""

from typing import NamedTuple

from torch import nn

SMALL_IMAGES = "-32px"  # ends the name of a network adapted to small images
SOLO_LEARN = f"{SMALL_IMAGES}-solo-learn"


class Backbone(NamedTuple):
    """A network that returns features, and their dimension."""

    module: nn.Module
    feature_dim: int


def disable_dropout(network: nn.Module) -> None:
    """Set the rates of dropout to 0.

    The published code of CompRess trains students without it, and a key encoder runs in training mode.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0


def conv4(width: int) -> Backbone:
    """Return four blocks of convolution, batch norm, ReLU and max-pool, then the mean.

    The network of Matching Networks (Vinyals et al. 2016). The ReLU follows the pooling, which computes the same and is
    nearly twice as fast on a CPU.
    """
    layers: list[nn.Module] = []
    for inputs in (3, width, width, width):
        layers += [
            nn.Conv2d(inputs, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.ReLU(),
        ]
    return Backbone(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), width)
