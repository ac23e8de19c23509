"""From a feature map to patches: pooled to a grid, then projected to the principal components that the store keeps.

Letters: B batch, C channels and H side of the map, G side of the grid, P = G * G positions, K components.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from compress_ssl.pipeline.networks.feature_map import pool_map
from compress_ssl.storage import Split


@dataclass(frozen=True)
class PatchProjection:
    """From a map to the components of its positions, on the device of the network."""

    grid: int
    mean: Tensor  # (C,) float32
    basis: Tensor  # (K, C) float32, orthonormal rows

    @classmethod
    def of(cls, split: Split, device: torch.device) -> Self | None:
        """Return the projection that a split was made with; None if it has no patches."""
        if split.patches is None:
            return None
        mean, basis = (torch.from_numpy(each).to(device) for each in split.patch_basis)
        return cls(split.patches.grid, mean, basis)

    def __call__(self, feature_map: Tensor) -> Tensor:
        """Return the patches (B, P, K) of a map (B, C, H, H), in float32."""
        return (pool_map(feature_map, self.grid) - self.mean) @ self.basis.T
