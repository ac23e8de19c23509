"""The signature that all ways of pre-training share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from compress_ssl.pipeline.common.device import autocast

if TYPE_CHECKING:
    from torch import Tensor

    from compress_ssl.pipeline.images.index import ImageIndex
    from compress_ssl.pipeline.pretrain.settings import PretrainSettings


class Method(nn.Module, ABC):
    """A loss, and what it trains besides the network: all of it is thrown away in the end.

    Letters: B images of a batch, S their side in pixels, V views, F features of the network.
    """

    views: ClassVar[int]
    """V, random views of every image in every epoch."""
    head: nn.Module
    """On the F features."""
    key_encoder: nn.Module | None
    """The network's moving average, where there is one."""

    def __init__(self, network: nn.Module, feature_dim: int, index: ImageIndex, settings: PretrainSettings) -> None:
        """Draw the head from torch's generator; raises ``InputError`` if the images do not do."""
        super().__init__()
        del network, feature_dim, index
        self.key_encoder = None
        self.precision = settings.precision

    @abstractmethod
    def forward(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (a scalar), and scalars to log beside it.

        Parameters
        ----------
        images : (V B, 3, S, S) float32
            Normalised, view after view.
        labels : (B,) int64
            -1 where there is none.
        """

    def after_step(self, network: nn.Module) -> None:
        """Do what follows the optimiser's step."""
        del network

    def encode(self, network: nn.Module, images: Tensor) -> Tensor:
        """Features (B, F), float32; the network runs in the precision of the settings."""
        with autocast(images.device, self.precision):
            features: Tensor = network(images)
        return features.float()
