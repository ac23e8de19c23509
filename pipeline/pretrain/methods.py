"""The pre-training methods: SimCLR, MoCo v2 and supervised, each a loss with the modules it trains."""

import logging
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from compress_ssl.pipeline.common.device import autocast
from compress_ssl.pipeline.common.settings import Precision
from compress_ssl.pipeline.training.distributed import gather_rows, gather_with_gradient, rank, world_size
from compress_ssl.pipeline.training.ema import ema_copy, ema_update
from compress_ssl.pipeline.training.memory_bank import MemoryBank

logger = logging.getLogger(__name__)


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


def projection_head(feature_dim: int, projection_dim: int) -> nn.Sequential:
    """Return the MLP between the features and the space of the loss (SimCLR, section 2.1)."""
    return nn.Sequential(nn.Linear(feature_dim, feature_dim), nn.ReLU(), nn.Linear(feature_dim, projection_dim))


def nt_xent_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return the normalized temperature-scaled cross entropy (SimCLR, equation 1 and algorithm 1).

    Args:
        first, second (float tensors of shape (B, D)): Projections of the two views of B images; need not be normalized.

    Returns:
        loss (scalar): Mean over the 2 B views.
    """
    views = normalize(torch.cat([first, second]), dim=1)  # (2B, D)
    logits = views @ views.T / temperature
    logits.fill_diagonal_(-torch.inf)
    partner = torch.arange(len(views), device=views.device).roll(len(first))
    return cross_entropy(logits, partner)


class SimCLR(Method):
    """NT-Xent (Chen et al. 2020): contrast the two views of an image with all other views of the global batch."""

    views = 2

    def __init__(
        self, feature_dim: int, *, projection_dim: int = 128, temperature: float = 0.2, precision: Precision = "float32"
    ) -> None:
        super().__init__(precision=precision)
        self.head = projection_head(feature_dim, projection_dim)
        self.temperature = temperature

    def forward(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the projections of both views."""
        first, second = map(gather_with_gradient, self.head(self.encode(network, images)).chunk(2))
        return nt_xent_loss(first, second, self.temperature), {}


def info_nce_loss(queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Return the cross entropy of each query's own key against the negatives (MoCo, equation 1).

    Args:
        queries, keys ((B, D)): L2-normalized, of two views of the same B images.
        negatives ((B, K)): Similarities of the queries to K keys of other images.

    Returns:
        loss (scalar): Mean over the queries.
    """
    positives = (queries * keys).sum(dim=1, keepdim=True)
    logits = torch.cat([positives, negatives], dim=1) / temperature  # (B, 1 + K)
    return cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


class MoCoV2(Method):
    """InfoNCE with keys of the EMA of network and head; the queue holds those of the last K images.

    He et al. 2020; version 2: Chen et al. 2020, arXiv:2003.04297.

    Queries are compared with the queue as it is before the batch. Over several ranks batch norm could identify the two
    views of an image by their batch; the key encoder therefore sees the images in another split (shuffling BN, section
    3.3). In one process both views share their batch in any order, as in the published code on one GPU.
    """

    views = 2
    key_encoder: nn.Module

    def __init__(
        self,
        network: nn.Module,
        feature_dim: int,
        *,
        images: int,
        queue_size: int = 65_536,
        key_momentum: float = 0.999,
        projection_dim: int = 128,
        temperature: float = 0.2,
        precision: Precision = "float32",
    ) -> None:
        """Initialize head and queue from torch's generator.

        Args:
            images: Size N of the dataset. The queue is at most as long: each epoch has a new order, so that of all
                queries (K / N)^2 / 2 meet the last key of their own image as a negative: half of them for K = N, all
                from 2 N on.
        """
        super().__init__(precision=precision)
        self.head = projection_head(feature_dim, projection_dim)
        self.key_encoder, self.key_head = ema_copy(network), ema_copy(self.head)
        if queue_size > images:
            logger.warning(
                "--queue-size %d is reduced to the size of the dataset, %d images: in a longer queue ever more of them "
                "meet their own earlier keys as negatives. Half of them still do, and with --queue-size %d one in 32.",
                queue_size, images, max(1, images // 4),
            )  # fmt: skip
        self.queue = MemoryBank(min(queue_size, images), projection_dim)
        self.queue.rows = normalize(torch.randn_like(self.queue.rows), dim=1)  # as the published code initializes it
        self.temperature, self.key_momentum = temperature, key_momentum
        self._keys: Tensor | None = None

    def forward(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the first view's queries and the second view's keys."""
        first, second = images.chunk(2)
        queries = normalize(self.head(self.encode(network, first)), dim=1)
        with torch.no_grad():  # rank r encodes the images r, r + W, r + 2 W, ... of the global batch
            shuffled = gather_rows(second)[rank() :: world_size()]
            gathered = gather_rows(normalize(self.key_head(self.encode(self.key_encoder, shuffled)), dim=1))
            self._keys = torch.stack(gathered.chunk(world_size()), dim=1).flatten(0, 1)  # (B, D)
        keys = self._keys.chunk(world_size())[rank()]
        return info_nce_loss(queries, keys, self.queue.similarities(queries), self.temperature), {}

    @torch.no_grad()
    def after_step(self, network: nn.Module) -> None:
        """Enqueue the keys of the global batch and update the key encoder."""
        assert self._keys is not None
        self.queue.enqueue(self._keys)
        self._keys = None
        ema_update(self.key_encoder, network, self.key_momentum)
        ema_update(self.key_head, self.head, self.key_momentum)


def classification_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the mean cross entropy of logits (B, classes), and the top-1 accuracy in percent to log."""
    accuracy = (logits.detach().argmax(dim=1) == labels).float().mean()
    return cross_entropy(logits, labels), {"train_top1_percent": 100 * accuracy}


class Supervised(Method):
    """Cross entropy of a linear classifier on the features: the baseline where no weights are published."""

    views = 1

    def __init__(self, feature_dim: int, *, classes: int, precision: Precision = "float32") -> None:
        super().__init__(precision=precision)
        self.head = nn.Linear(feature_dim, classes)

    def forward(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the classifier."""
        return classification_loss(self.head(self.encode(network, images)), labels)
