"""Reg, Reg-BN and SimReg, against float64 textbook versions."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from compress_ssl.pipeline.distill.objectives.objective import Batch, Objective
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.distill.task import build_objective
from compress_ssl.pipeline.networks.architectures import build_backbone

Students = Callable[..., DistillSettings]

D = 24
"""Dimensions of the teacher; the student has 16."""


def made(settings: DistillSettings) -> tuple[nn.Module, Objective, Batch]:
    """A student, its objective and a batch of 12 images."""
    module, feature_dim = build_backbone("conv4-16", settings.seed)
    torch.manual_seed(settings.seed)
    objective = build_objective(
        settings, settings.objective_options, module, student_dim=feature_dim, teacher_dim=D, images=100
    )
    teacher = torch.randn(12, D).relu() + 0.1
    return (
        module.train(),
        objective.train(),
        Batch(torch.randn(12, 3, 16, 16), teacher / teacher.norm(dim=1, keepdim=True), torch.arange(12)),
    )


def textbook(objective: str, projected: Tensor, teacher: Tensor) -> Tensor:
    """The loss by loops over images and dimensions, in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for number, (ours, theirs) in enumerate(zip(projected, teacher, strict=True)):
        if objective == "simreg":
            ours = ours / (ours @ ours).sqrt()
            total = total + 2 - 2 * ours @ theirs
            continue
        for dim in range(D):
            if objective == "reg-bn":
                one, other = (
                    (rows[number, dim] - rows[:, dim].mean()) / (rows[:, dim].var(unbiased=False) + epsilon).sqrt()
                    for rows, epsilon in ((projected, 1e-5), (teacher, 1e-5 / D))
                )
                total = total + (one - other) ** 2 / D
            else:
                total = total + (ours[dim] - theirs[dim]) ** 2
    return total / len(projected)


def test_loss_and_its_gradient_are_the_textbooks(student: Students) -> None:
    for name, head in itertools.product(("reg", "reg-bn", "simreg"), (None, "linear", "mlp")):
        check_loss(name, student(objective=name, head=head))


def check_loss(name: str, settings: DistillSettings) -> None:
    module, objective, batch = made(settings)
    seen: list[Tensor] = []
    objective.projection.register_forward_hook(lambda _, __, projected: seen.append(projected))
    loss, _ = objective(module, batch)
    (gradient,) = torch.autograd.grad(loss, seen[0])
    projected = seen[0].detach().double().requires_grad_()
    expected = textbook(name, projected, batch.teacher_embeddings.double())
    (expected_gradient,) = torch.autograd.grad(expected, projected)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(
        gradient.double(), expected_gradient, rtol=1e-5, atol=1e-5 * expected_gradient.abs().max().item()
    )
