"""SimCLR (Chen et al. 2020): contrast the two views of an image with all other views of the batch."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from compress_ssl.pipeline.common.settings import Precision
from compress_ssl.pipeline.pretrain.method import Method
from compress_ssl.pipeline.training.distributed import gather_with_gradient


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
    """NT-Xent over the views of the global batch."""

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
