"""Feature maps: the last grid of features of any network, from the forward pass that computes its pooled features.

The map is what timm's ``forward_features`` returns, where a module of the network returns the same (of 98 families of
timm 1.0.31 all but CoaT, CrossViT, EfficientViM and NesT). Elsewhere it is the last map of more than one position that
a module returns, unless that is an adaptive pooling. Transformers give their patch tokens, without the prefix of class
and register tokens. A hook keeps it.

Letters: B batch, S side of an image in pixels, C channels, H side of the map in positions, G side of the pooled grid.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from compress_ssl.pipeline.common.errors import InputError

ADAPTIVE = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)

Output = tuple[str, Tensor]  # path of a module, and what it returned


class MapLayer(NamedTuple):
    """The module that returns a network's last map, and how it is laid out."""

    path: str  # of the module; empty for the network itself
    layout: Literal["channels first", "channels last", "tokens"]
    channels: int  # C
    side: int  # H, for images of the size that it was found with

    def as_map(self, output: Tensor) -> Tensor:
        """Return what the module returned as a map (B, C, H, H)."""
        if self.layout == "tokens":
            patches = output[:, -(self.side**2) :]  # the prefix is before them
            return patches.transpose(1, 2).reshape(len(output), self.channels, self.side, self.side)
        return output.permute(0, 3, 1, 2) if self.layout == "channels last" else output


class MapHook:
    """Keeps the map of a network's last forward pass.

    Where the network is compiled, make it before the first pass: torch.compile takes the hooks that it finds then.
    """

    def __init__(self, network: nn.Module, layer: MapLayer) -> None:
        self.layer = layer
        self._output: Tensor | None = None
        network.get_submodule(layer.path).register_forward_hook(self._keep)

    def take(self) -> Tensor:
        """Return the map (B, C, H, H), in the precision of the pass; it is kept no longer."""
        assert self._output is not None, "the network has not run"
        output, self._output = self._output, None
        return self.layer.as_map(output)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._output = output


def find_map_layer(network: nn.Module, size: int) -> MapLayer:
    """Return the layer of a network's last map, found by one forward pass of an image of ``size`` pixels.

    The number of prefix tokens is timm's ``num_prefix_tokens``, which any network may have as an attribute; otherwise 0
    or 1, whichever leaves a square.

    Raises:
        InputError: If no module returns a square map of more than one position.
    """
    prefix = getattr(network, "num_prefix_tokens", None)
    with _outputs(network) as outputs:
        parameter = next(network.parameters())
        images = torch.zeros(1, 3, size, size, device=parameter.device, dtype=parameter.dtype)
        forward: Callable[[Tensor], object] = getattr(network, "forward_features", network)
        returned = forward(images)
    of_features = [each for each in outputs if each[1] is returned]
    for path, output in reversed([*outputs, *of_features]):
        if layer := _layer(path, output, prefix):
            return layer
    raise InputError(
        f"A {type(network).__name__} returns no square map of more than one position for images of {size} pixels; take "
        "larger images, or another network."
    )


def grid_side(layer: MapLayer, asked: int | None, default: int, option: str = "--patch-grid") -> int:
    """Return G: what is asked for, or at most ``default``; raise InputError if the map is smaller."""
    if asked is not None and asked > layer.side:
        raise InputError(f"The map is {layer.side} x {layer.side}; {option} must be at most {layer.side}.")
    return asked or min(default, layer.side)


def pool_map(feature_map: Tensor, grid: int) -> Tensor:
    """Average a map (B, C, H, H) to its positions (B, G * G, C) on a grid, row by row, in float32."""
    return adaptive_avg_pool2d(feature_map.float(), grid).flatten(2).transpose(1, 2)


@contextlib.contextmanager
def _outputs(network: nn.Module) -> Iterator[list[Output]]:
    """Collect what each module returns, in order, in evaluation mode without gradient."""
    outputs: list[Output] = []

    def keep(path: str, module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and not isinstance(module, ADAPTIVE):
            outputs.append((path, output))

    mode = network.training
    with contextlib.ExitStack() as hooks, torch.no_grad():
        for path, module in network.named_modules():
            hooks.callback(module.register_forward_hook(partial(keep, path)).remove)
        network.eval()
        hooks.callback(network.train, mode)
        yield outputs


def _layer(path: str, output: Tensor, prefix: int | None) -> MapLayer | None:
    """Return the layer whose module at a path returned this for one square image; None if it is no map."""
    if output.ndim == 4:
        _, first, second, last = output.shape
        if second == last > 1:
            return MapLayer(path, "channels first", first, last)
        if first == second > 1:
            return MapLayer(path, "channels last", last, first)
    if output.ndim == 3:
        _, tokens, channels = output.shape
        for before in (0, 1) if prefix is None else (prefix,):
            side = math.isqrt(max(0, tokens - before))
            if side**2 == tokens - before and side > 1:
                return MapLayer(path, "tokens", channels, side)
    return None
