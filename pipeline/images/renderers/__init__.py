"""Renderers behind one protocol: DALI, and torchvision as the reference."""

import torch

from compress_ssl.pipeline.images.rendering import Renderer


def make_renderer(name: str, device: torch.device, threads: int) -> Renderer:
    """Return the renderer ``dali`` or ``torchvision``; only the chosen one is imported."""
    if name == "dali":
        from compress_ssl.pipeline.images.renderers.dali import DaliRenderer

        return DaliRenderer(device, threads)
    from compress_ssl.pipeline.images.renderers.torchvision import TorchvisionRenderer

    return TorchvisionRenderer(device, threads)
