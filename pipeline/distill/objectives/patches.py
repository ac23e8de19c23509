"""Losses between a student's feature map and the teacher's patches, beside any objective of pooled features.

The student's map goes through one linear layer, which is dropped at export. A map with at least as many positions as
the teacher's grid is averaged to it, as the teacher's was; a smaller one is interpolated (bilinear, as LightlyTrain
does). Both commute with the layer, so the order does not matter.

Letters: B batch, C the teacher's channels, K its principal components, F the student's channels, H the side of the
student's map, P = G * G positions of the teacher's grid, row by row.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, kl_div, log_softmax, normalize, smooth_l1_loss

from compress_ssl.pipeline.networks.feature_map import pool_map


class PatchObjective(nn.Module, ABC):
    """A loss of a student's feature maps (B, F, H, H) against patches (B, P, K) of the same views.

    A patch z stands for the channels ``mean + z @ basis`` of the teacher's pooled map (``Split.patch_basis``).

    Args:
        student_channels: F.
        mean (float32 tensor of shape (C,))
        basis (float32 tensor of shape (K, C)): Orthonormal rows.
    """

    needs_fit: bool = False  # true if ``fit_teacher`` has to be called before the first step

    def __init__(self, student_channels: int, mean: Tensor, basis: Tensor) -> None:
        super().__init__()
        self.projection = nn.Linear(student_channels, len(basis))
        # As UNIC's heads; LightlyTrain's bias begins as torch's.
        nn.init.trunc_normal_(self.projection.weight, std=0.02)
        nn.init.zeros_(self.projection.bias)

    def forward(self, feature_map: Tensor, patches: Tensor) -> Tensor:
        """Return the loss (a scalar), in float32."""
        grid = math.isqrt(patches.shape[1])
        return self.compare(self.projection(to_grid(feature_map, grid)), patches)

    @abstractmethod
    def compare(self, projected: Tensor, patches: Tensor) -> Tensor:
        """Return the loss of projected positions (B, P, K)."""

    def fit_teacher(self, patches: Tensor) -> None:
        """Fit what depends on a sample (n, P, K) of the patches; called before the first step where ``needs_fit``."""


class PatchSimilarity(PatchObjective):
    """Compare the similarities between the positions of one image: KL divergence at a temperature.

    The local half of LightlyTrain's distillation v3 (lightly-train 0.18.0, ``DistillationV3Loss``): each position has a
    distribution over all positions of its image, itself included, the softmax of cosines / 0.07. The loss is the KL
    divergence of the student's from the teacher's, averaged over positions and images. The teacher's cosines are those
    of the channels that the patches stand for, mean included.

    Example:
        >>> mean, basis = torch.randn(6), torch.linalg.qr(torch.randn(6, 3))[0].T
        >>> objective = PatchSimilarity(16, mean, basis)
        >>> feature_map, patches = torch.randn(8, 16, 7, 7), torch.randn(8, 4 * 4, 3)
        >>> loss = objective(feature_map, patches)
    """

    channels_offset: Tensor
    channels_rest: Tensor

    def __init__(self, student_channels: int, mean: Tensor, basis: Tensor, *, temperature: float = 0.07) -> None:
        super().__init__(student_channels, mean, basis)
        self.temperature = temperature
        # mean + z @ basis has the lengths and products of (z + offset, rest): the rows of the basis are orthonormal.
        offset = basis.double() @ mean.double()  # (K,)
        rest = (mean.double().square().sum() - offset.square().sum()).clamp(min=0).sqrt()
        self.register_buffer("channels_offset", offset.float())
        self.register_buffer("channels_rest", rest.float())

    def compare(self, projected: Tensor, patches: Tensor) -> Tensor:
        """Return the divergence in nats, averaged over positions and images."""
        rest = self.channels_rest.expand(*patches.shape[:2], 1)
        teacher = torch.cat([patches + self.channels_offset, rest], dim=2)  # (B, P, K + 1)
        target, log_q = (
            log_softmax(each @ each.transpose(1, 2) / self.temperature, dim=2)  # (B, P, P)
            for each in (normalize(teacher, dim=2), normalize(projected, dim=2))
        )
        return kl_div(log_q, target, reduction="none", log_target=True).sum(dim=2).mean()


class PatchRegression(PatchObjective):
    """Regress the teacher's patches by smooth L1 (beta 1), averaged over components, positions and images.

    The smooth L1 of UNIC's patches (Sariyildiz et al. 2024; naver/unic, modeling/losses.py at 698a382) as a loss of its
    own. Proteus (Zhang et al. 2025) regresses features of all positions too, by squared differences. UNIC standardises
    each channel. Here all components are divided by one number, the root of their mean square, as PHI-S does (Ranzinger
    et al. 2024): a number for each would make the last components, mostly noise, as large as the first.

    Example:
        >>> mean, basis = torch.randn(6), torch.linalg.qr(torch.randn(6, 3))[0].T
        >>> objective = PatchRegression(16, mean, basis)
        >>> objective.fit_teacher(torch.randn(100, 4 * 4, 3))
        >>> feature_map, patches = torch.randn(8, 16, 7, 7), torch.randn(8, 4 * 4, 3)
        >>> loss = objective(feature_map, patches)
    """

    needs_fit = True
    scale: Tensor

    def __init__(self, student_channels: int, mean: Tensor, basis: Tensor) -> None:
        super().__init__(student_channels, mean, basis)
        self.register_buffer("scale", torch.tensor(torch.nan))

    def fit_teacher(self, patches: Tensor) -> None:
        """Set the scale to the root of the mean square of a sample (n, P, K)."""
        self.scale.fill_(patches.double().square().mean().sqrt())

    def compare(self, projected: Tensor, patches: Tensor) -> Tensor:
        """Return the loss of projected positions (B, P, K)."""
        return smooth_l1_loss(projected, patches / self.scale)


PATCH_OBJECTIVES: dict[str, type[PatchObjective]] = {"kl": PatchSimilarity, "smooth-l1": PatchRegression}


def to_grid(feature_map: Tensor, grid: int) -> Tensor:
    """Return a map (B, F, H, H) as positions (B, G * G, F) in float32: averaged, or interpolated if it is smaller."""
    if feature_map.shape[-1] < grid:
        size = (grid, grid)
        feature_map = interpolate(feature_map.float(), size, mode="bilinear", align_corners=False)
    return pool_map(feature_map, grid)
