"""The network of a process as it embeds: loaded once, its weights cast once, compiled if asked for.

Letters: B batch, S side in pixels, D features; C channels and H side of the feature map.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from compress_ssl.pipeline.common.device import AUTOCAST_DTYPES, autocast, choose_precision, prepare_device
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.settings import Precision
from compress_ssl.pipeline.common.torch_errors import is_out_of_memory
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.embed.verify.settings import VerifySettings
from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.images.rendering import Renderer
from compress_ssl.pipeline.networks.feature_map import MapHook, find_map_layer
from compress_ssl.pipeline.networks.network import Network, load_network

CAST_ONCE = (nn.Conv2d, nn.Linear)
"""Layers that do nothing with their weights but what autocast does in half precision.

Their subclasses may (weight standardisation computes with float32 weights first), and ``nn.MultiheadAttention`` takes
another path if its weights have another type than its inputs: autocast casts the weights of these at each pass.
"""


class Embedder(NamedTuple):
    """Network and renderer on one device; each process loads them once."""

    network: Network  # as it was loaded, in float32
    renderer: Renderer
    batch_size: int
    precision: Precision
    normalise: bool = False  # true if embeddings are L2-normalised
    features: Callable[[Tensor], Tensor] | None = None
    """``network.features`` with the weights in ``precision``, compiled if asked for; None for those of the network."""
    maps: MapHook | None = None  # of ``features``, where patches are asked for


class HostRows(NamedTuple):
    """Embeddings (B, D) on their way to the host."""

    rows: Tensor
    arrived: torch.cuda.Event | None  # None on the CPU, where they are already

    def get(self) -> npt.NDArray[np.float32]:
        """Wait for the embeddings, and return them."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.rows.numpy()

    @classmethod
    def of(cls, rows: Tensor) -> Self:
        """Start copying embeddings to pinned memory of the host; on the CPU nothing is copied."""
        copied = rows.to("cpu", non_blocking=True)
        if rows.device.type == "cpu":
            return cls(copied, None)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(torch.cuda.current_stream(rows.device))
        return cls(copied, arrived)


def load_embedder(
    teacher: str,
    settings: EmbedSettings | VerifySettings,
    precision: Precision,
    normalise: bool,
    pool: str | None,
    map_size: int | None = None,
) -> Embedder:
    """Load a network onto the device of the settings, and their renderer.

    Args:
        map_size: Side of the images whose feature maps are kept, in pixels; ``EmbedSettings`` with patches imply it.

    Raises:
        InputError: If there is no such network, pool or device, or the network cannot be compiled.
    """
    device = prepare_device(settings.device, settings.thread_count)
    network = load_network(teacher, settings.seed, pool)
    network.module.eval().to(device).to(memory_format=torch.channels_last)
    precision = choose_precision(precision, device)
    cast = cast_weights(network, precision)
    renderer = make_renderer(settings.renderer, device, settings.thread_count)
    embedder = Embedder(network, renderer, settings.batch_size, precision, normalise, cast.features)
    if isinstance(settings, EmbedSettings) and settings.patches is not None:
        map_size = settings.size or network.preprocessing.size
    if map_size is not None:
        embedder = embedder._replace(maps=MapHook(cast.module, find_map_layer(network.module, map_size)))
    if isinstance(settings, EmbedSettings) and settings.compile:
        embedder = embedder._replace(features=torch.compile(cast.features))
        _compile_now(embedder, settings.size or network.preprocessing.size)
    return embedder


def cast_weights(network: Network, precision: Precision) -> Network:
    """Return a copy of a network whose weights autocast need not cast; of the same features, bit for bit.

    Batch norm and the like keep their float32 weights, as under autocast.
    """
    if precision not in AUTOCAST_DTYPES:
        return network
    module = copy.deepcopy(network.module)
    for layer in module.modules():
        if type(layer) in CAST_ONCE:
            layer.to(AUTOCAST_DTYPES[precision])
    return replace(network, module=module)


def _compile_now(embedder: Embedder, size: int) -> None:
    """Let torch compile the features for every batch size at once, on a batch of the largest.

    So a batch gives the same bytes, whichever batch a run begins with.
    """
    images = torch.zeros(embedder.batch_size, size, size, 3, dtype=torch.uint8, device=embedder.renderer.device)
    if embedder.batch_size > 1:
        torch._dynamo.mark_dynamic(images, 0)
    try:
        embed_images(embedder, images).get()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise InputError(
            f"'{embedder.network.name}' cannot be compiled ({reason}); install a C++ compiler, or leave --compile out."
        ) from error


@torch.inference_mode()
def embed_images(embedder: Embedder, pixels: Tensor) -> HostRows:
    """Compute the embeddings (B, D) of uint8 images (B, S, S, 3); on a GPU they may not be ready on return."""
    with autocast(pixels.device, embedder.precision):
        features = (embedder.features or embedder.network.features)(pixels)
    features = features.float()
    if embedder.normalise:
        features = normalize(features, dim=1, eps=torch.finfo(torch.float32).tiny)
    return HostRows.of(features)


def embed_with_map(embedder: Embedder, pixels: Tensor) -> tuple[HostRows, Tensor]:
    """Compute the embeddings as ``embed_images``, and the map (B, C, H, H) of the same pass, on the device."""
    assert embedder.maps is not None
    return embed_images(embedder, pixels), embedder.maps.take()
