"""LightlyTrain's global loss against a float64 loop over images and anchors, and over the steps of its queue."""

import pytest
import torch
from torch import Tensor, nn

from compress_ssl.pipeline.distill.objectives.lightly import Lightly
from compress_ssl.pipeline.distill.objectives.objective import Batch
from compress_ssl.pipeline.distill.settings import DistillSettings
from tests.pipeline.distill.float64 import check_loss, unit


def divergence(projected: Tensor, teacher: Tensor, anchors: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) of the softmaxes over the anchors, averaged over the images."""
    losses = []
    for query, target in zip(unit(projected), teacher.double(), strict=True):
        p, q = (torch.stack([each @ anchor / temperature for anchor in anchors]).exp() for each in (target, query))
        p, q = p / p.sum(), q / q.sum()
        losses.append(sum(a * (a / b).log() for a, b in zip(p, q, strict=True)))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("size", [5, 12, 20])
def test_loss_and_gradient_are_the_textbooks_over_a_queue_that_the_batch_has_entered(size: int) -> None:
    torch.manual_seed(0)
    objective = Lightly(nn.Identity(), teacher_dim=24, student_dim=16, bank_size=size, temperature=0.3)
    queue = [torch.zeros(24)] * size
    for _ in range(4):
        teacher = unit(torch.randn(6, 24))
        queue = [*queue, *teacher][-size:]
        anchors = torch.stack(queue).double()
        batch = Batch(torch.randn(6, 16), teacher)
        check_loss(objective, batch, lambda projected, of=teacher, to=anchors: divergence(projected, of, to, 0.3))
        objective.after_step(nn.Identity())


def test_micro_batches_are_compared_with_what_came_before_the_step_and_themselves() -> None:
    torch.manual_seed(0)
    objective = Lightly(nn.Identity(), teacher_dim=24, student_dim=16, bank_size=30)
    before = unit(torch.randn(30, 24))
    objective.teacher_bank.enqueue(before)
    for part in unit(torch.randn(6, 24)).chunk(2):
        anchors = torch.cat([before[3:], part]).double()
        batch = Batch(torch.randn(3, 16), part)
        check_loss(objective, batch, lambda projected, of=part, to=anchors: divergence(projected, of, to, 0.07))
    objective.after_step(nn.Identity())
    assert torch.equal(objective.teacher_bank.rows[6:], before[6:])


def test_defaults_are_lightlytrains() -> None:
    settings = DistillSettings(store="a", data="b", run="c", student="d", objective="lightly")
    assert (settings.temperature, settings.bank_size) == (0.07, 8192)
    weight = Lightly(nn.Identity(), teacher_dim=768, student_dim=512, bank_size=2).projection.weight
    assert isinstance(weight, Tensor)
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)
