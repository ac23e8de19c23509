"""Key encoders: networks that follow another one slowly (MoCo, He et al. 2020, equation 2)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from torch import nn

ModuleT = TypeVar("ModuleT", bound="nn.Module")


def ema_copy(trained: ModuleT) -> ModuleT:
    """A copy that is not trained."""
    return copy.deepcopy(trained).requires_grad_(False)


@torch.no_grad()
def ema_update(average: nn.Module, trained: nn.Module, momentum: float) -> None:
    """Move the parameters, not the buffers, of a follower to ``momentum`` times its own and the rest of the trained network's."""
    for key, query in zip(average.parameters(), trained.parameters(), strict=True):
        key.mul_(momentum).add_(query, alpha=1 - momentum)
