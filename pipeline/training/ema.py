"""Exponential moving averages of networks: key encoders (MoCo, He et al. 2020, equation 2)."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound="nn.Module")


def ema_copy(model: ModuleT) -> ModuleT:
    """Return a copy of a network that takes no gradients."""
    return copy.deepcopy(model).requires_grad_(False)


@torch.no_grad()
def ema_update(ema_model: nn.Module, model: nn.Module, momentum: float) -> None:
    """Set each parameter, but no buffer, to ``momentum`` times itself plus ``1 - momentum`` times the model's."""
    averages: list[Tensor] = list(ema_model.parameters())
    parameters: list[Tensor] = list(model.parameters())
    if averages:  # in a few kernels for all of them
        torch._foreach_mul_(averages, momentum)
        torch._foreach_add_(averages, parameters, alpha=1 - momentum)
