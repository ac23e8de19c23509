"""Renderers behind one protocol: DALI, and torchvision as the reference."""

import torch

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.rendering import Renderer


def make_renderer(name: str, device: torch.device, threads: int) -> Renderer:
    """Return the renderer ``dali`` (also for ``auto``) or ``torchvision``; only the chosen one is imported.

    Raises:
        InputError: If there is no such renderer.
    """
    if name in ("dali", "auto"):
        from compress_ssl.pipeline.images.renderers.dali import DaliRenderer

        return DaliRenderer(device, threads)
    if name == "torchvision":
        from compress_ssl.pipeline.images.renderers.torchvision import TorchvisionRenderer

        return TorchvisionRenderer(device, threads)
    raise InputError(f"There is no renderer '{name}' in this release; give --renderer dali or torchvision.")
