"""The interface of pre-training methods."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from compress_ssl.pipeline.common.device import autocast
from compress_ssl.pipeline.common.settings import Precision


class Method(nn.Module, ABC):
    """A loss, and the modules it trains besides the network, which are dropped after training.

    Letters: B batch size, S image size in pixels, V views, F feature dimension of the network.
    """

    views: ClassVar[int]  # V, random views of every image in every epoch
    key_encoder: nn.Module | None  # the EMA copy of the network, if the method has one

    def __init__(self, *, precision: Precision = "float32") -> None:
        super().__init__()
        self.key_encoder = None
        self.precision = precision

    @abstractmethod
    def forward(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss (a scalar), and scalars to log.

        Args:
            images ((V B, 3, S, S) float32): Normalized, view after view.
            labels ((B,) int64): -1 where an image has none.
        """

    def after_step(self, network: nn.Module) -> None:
        """Update what the optimizer does not."""

    def encode(self, network: nn.Module, images: Tensor) -> Tensor:
        """Return features (B, F) in float32; the network runs under autocast in ``precision``."""
        with autocast(images.device, self.precision):
            features: Tensor = network(images)
        return features.float()
