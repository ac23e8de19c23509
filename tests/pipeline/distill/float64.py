"""Compare an objective's loss, and its gradient by the student's features, with an independent one in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from compress_ssl.pipeline.distill.objectives.objective import Batch


def unit(rows: Tensor) -> Tensor:
    return rows / rows.square().sum(dim=-1, keepdim=True).sqrt()


def check_loss(objective: Any, batch: Batch, textbook: Callable[[Tensor], Tensor]) -> None:
    """Check loss and gradient to 1e-5.

    Args:
        textbook: Returns the loss of projected features (B, D) in float64.
    """
    seen: list[Tensor] = []
    student = torch.nn.Identity()
    hook = objective.projection.register_forward_hook(lambda _, __, projected: seen.append(projected))
    loss, _ = objective(student, batch)
    hook.remove()
    (gradient,) = torch.autograd.grad(loss, seen[0])
    projected = seen[0].detach().double().requires_grad_()
    expected = textbook(projected)
    (expected_gradient,) = torch.autograd.grad(expected, projected)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    tolerance = 1e-5 * float(expected_gradient.abs().max())
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-5, atol=tolerance)
