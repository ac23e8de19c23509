"""KoLeo against a float64 loop over pairs of images."""

from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from compress_ssl.pipeline.distill.objectives.koleo import KoLeo, koleo
from compress_ssl.pipeline.distill.objectives.objective import Batch
from compress_ssl.pipeline.distill.settings import DistillSettings
from tests.pipeline.distill.float64 import check_loss, unit

Students = Callable[..., DistillSettings]


def entropy(directions: Tensor) -> Tensor:
    """Minus the mean log of each one's smallest distance to another."""
    logs = []
    for number, one in enumerate(directions):
        others = [other for at, other in enumerate(directions) if at != number]
        logs.append(torch.stack([(one - other).square().sum().sqrt() for other in others]).min().log())
    return -torch.stack(logs).mean()


@pytest.mark.parametrize("weight", [0.1, 2.0])
def test_loss_and_gradient_are_the_textbooks(weight: float) -> None:
    torch.manual_seed(0)
    teacher = unit(torch.randn(9, 24))
    objective = KoLeo(nn.Identity(), teacher_dim=24, student_dim=16, head="linear", koleo_weight=weight)

    def textbook(projected: Tensor) -> Tensor:
        directions = unit(projected)
        distances = [(a - b).square().sum() for a, b in zip(directions, teacher.double(), strict=True)]
        return torch.stack(distances).mean() + weight * entropy(directions)

    check_loss(objective, Batch(torch.randn(9, 16), teacher), textbook)


def test_regulariser_is_smallest_where_directions_are_spread() -> None:
    simplex = torch.eye(5) - 0.2  # five directions, as far from each other as can be
    crowded = torch.eye(5) * 0.1 + 1
    values = [koleo(unit(rows)).item() for rows in (simplex, crowded)]
    assert values[0] == pytest.approx(-torch.tensor(2.5).sqrt().log().item(), rel=1e-5)  # their distance is sqrt(5 / 2)
    assert values[0] < 0 < values[1]


def test_equal_images_of_a_batch_give_a_finite_loss_and_gradient() -> None:
    directions = unit(torch.ones(2, 4)).requires_grad_()
    loss = koleo(directions)
    (gradient,) = torch.autograd.grad(loss, directions)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


def test_one_image_per_micro_batch_is_refused(student: Students) -> None:
    with pytest.raises(ValidationError, match="--objective koleo compares each image with its nearest neighbour"):
        student(objective="koleo", head="linear", batch_size=4, accumulation=4)
