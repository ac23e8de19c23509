"""MoCo v2 (He et al. 2020; Chen et al. 2020, arXiv:2003.04297): a view finds its image among a queue of earlier ones."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy, normalize

from compress_ssl.pipeline.pretrain.method import Method
from compress_ssl.pipeline.pretrain.simclr import projection_head
from compress_ssl.pipeline.training.distributed import gather_rows, rank, world_size
from compress_ssl.pipeline.training.ema import ema_copy, ema_update
from compress_ssl.pipeline.training.memory_bank import MemoryBank

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress_ssl.pipeline.images.index import ImageIndex
    from compress_ssl.pipeline.pretrain.settings import PretrainSettings

logger = logging.getLogger(__name__)


def info_nce_loss(queries: Tensor, keys: Tensor, others: Tensor, temperature: float) -> Tensor:
    """Cross entropy of a query's own key among it and the others' (MoCo, equation 1).

    Parameters
    ----------
    queries, keys : (B, D)
        L2-normalised, of two views of the same B images.
    others : (B, K)
        Similarities of the queries to K keys of other images.
    temperature : float

    Returns
    -------
    loss : scalar
        Averaged over the queries.
    """
    own = (queries * keys).sum(dim=1, keepdim=True)
    logits = torch.cat([own, others], dim=1) / temperature  # (B, 1 + K)
    return cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


class MoCoV2(Method):
    """Keys come from a moving average of the network and its head; those of the last K images are a queue.

    Queries meet the queue as it stood before the batch. In several processes batch norm could tell the two views of an image
    by their batch: the key encoder sees the images shared out otherwise (shuffling BN, section 3.3). In one process both
    views are of one batch whatever is done, as in the published code on one GPU.
    """

    views = 2
    key_encoder: nn.Module

    def __init__(self, network: nn.Module, feature_dim: int, index: ImageIndex, settings: PretrainSettings) -> None:
        super().__init__(network, feature_dim, index, settings)
        self.head = projection_head(feature_dim, settings.projection_dim)
        self.key_encoder, self.key_head = ema_copy(network), ema_copy(self.head)
        self.queue = MemoryBank(_queue_size(settings, int(index.samples.good.sum())), settings.projection_dim)
        self.queue.rows = normalize(torch.randn_like(self.queue.rows), dim=1)  # as the published code begins
        self.temperature, self.momentum = settings.temperature, settings.key_momentum
        self._entering: Tensor | None = None

    def forward(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """InfoNCE of the first view's queries and the second view's keys."""
        del labels
        first, second = images.chunk(2)
        queries = normalize(self.head(self.encode(network, first)), dim=1)
        self._entering = self._keys(second)
        keys = self._entering.chunk(world_size())[rank()]
        return info_nce_loss(queries, keys, self.queue.similarities(queries), self.temperature), {}

    @torch.no_grad()
    def after_step(self, network: nn.Module) -> None:
        """Let the keys of the batch, of all processes, enter the queue; move the key encoder."""
        assert self._entering is not None
        self.queue.enqueue(self._entering)
        self._entering = None
        for average, trained in ((self.key_encoder, network), (self.key_head, self.head)):
            ema_update(average, trained, self.momentum)

    @torch.no_grad()
    def _keys(self, images: Tensor) -> Tensor:
        """Keys (B, D) of the whole batch, of which process r computes images r, r + W, r + 2 W and so on."""
        shuffled = gather_rows(images)[rank() :: world_size()]
        keys = gather_rows(normalize(self.key_head(self.encode(self.key_encoder, shuffled)), dim=1))
        return torch.stack(keys.chunk(world_size()), dim=1).flatten(0, 1)


def _queue_size(settings: PretrainSettings, images: int) -> int:
    """K: the size asked for, or the number of images N if that is less.

    Each epoch takes the images in a new order, so that of all queries (K / N)^2 / 2 meet their own image's last key among
    the K others: half of them for K = N, all of them from 2 N on.
    """
    if settings.queue_size > images:
        logger.warning(
            "--queue-size %d is made as small as the data set, which has %d images: in a longer one ever more of them "
            "meet their own earlier keys as negatives. Half of them still do, and with --queue-size %d one in 32.",
            settings.queue_size, images, max(1, images // 4),
        )  # fmt: skip
    return min(settings.queue_size, images)
