"""CRD against float64 loops over images and negatives, written from the paper and the published code."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from compress_ssl.pipeline.distill.objectives.objective import Batch
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.distill.task import build_objective
from compress_ssl.pipeline.networks.architectures import build_backbone

Students = Callable[..., DistillSettings]

N, D, K = 40, 24, 50
"""Images, dimensions of the teacher, negatives."""


def unit(rows: Tensor) -> Tensor:
    return rows / rows.square().sum(dim=-1, keepdim=True).sqrt()


class Loop:
    """The published algorithm, in float64; of ours it takes the first weights and the first noise of the memories."""

    def __init__(self, objective: Any, settings: DistillSettings) -> None:
        self.settings = settings
        self.layers = [(layer.weight.detach().double(), layer.bias.detach().double())
                       for layer in (objective.student_embedding, objective.teacher_embedding)]  # fmt: skip
        self.memories = [each.rows.double().clone() for each in (objective.student_memory, objective.teacher_memory)]
        self.constants: list[float] = []
        self.embeddings: list[Tensor] = []
        self.place = 0

    def loss(self, sides: list[Tensor], rows: list[int], drawn: list[list[int]]) -> Tensor:
        """Of feature and teacher's embedding, (B, F) and (B, D)."""
        count = len(self.memories[0])
        v = [unit(x @ weight.T + bias) for x, (weight, bias) in zip(sides, self.layers, strict=True)]
        scores = []
        for side in (0, 1):
            other, scores_of_side = 1 - side, []
            for number, (row, negatives) in enumerate(zip(rows, drawn, strict=True)):
                positive = v[other][number].detach() if self.settings.negative_queue else self.memories[other][row]
                compared = [positive, *(self.memories[other][negative] for negative in negatives)]
                scores_of_side.append([(v[side][number] @ each / self.settings.temperature).exp() for each in compared])
            scores.append(scores_of_side)
        if not self.constants:
            self.constants = [
                sum(sum(x.item() for x in line) for line in each) / len(rows) / (K + 1) * count for each in scores
            ]
        total = torch.zeros((), dtype=torch.float64)
        for each, z in zip(scores, self.constants, strict=True):
            for positive, *negatives in each:
                total = total - (positive / z / (positive / z + K / count + 1e-7)).log()
                for negative in negatives:
                    total = total - (K / count / (negative / z + K / count + 1e-7)).log()
        self.embeddings = [each.detach() for each in v]
        return total / len(rows)

    def keep(self, rows: list[int]) -> None:
        """Move the memories by the embeddings of the last loss."""
        m = self.settings.memory_momentum
        for number, row in enumerate(rows):
            for memory, embeddings in zip(self.memories, self.embeddings, strict=True):
                if self.settings.negative_queue:
                    memory[self.place] = embeddings[number]
                else:
                    memory[row] = unit(m * memory[row] + (1 - m) * embeddings[number])
            self.place = (self.place + 1) % len(self.memories[0])


@pytest.mark.parametrize("given", [{}, {"memory_momentum": 0.8, "temperature": 0.2}, {"negative_queue": 18}])
def test_losses_gradients_and_memories_are_the_textbooks(student: Students, given: dict[str, Any]) -> None:
    settings = student(objective="crd", negatives=K, **given)
    module, feature_dim = build_backbone("conv4-16", 0)
    torch.manual_seed(0)
    objective: Any = build_objective(
        settings, settings.objective_options, module, student_dim=feature_dim, teacher_dim=D, images=N
    )
    loop = Loop(objective, settings)
    bound = 1 / math.sqrt(128 / 3)
    assert 0.99 * bound < objective.student_memory.rows.abs().max() <= bound
    seen: list[Tensor] = []
    module.register_forward_hook(lambda _, __, features: seen.append(features))
    for step in range(3):
        rows = torch.randperm(N)[:8]
        batch = Batch(torch.randn(8, 3, 16, 16), unit(torch.randn(8, D)), rows)
        torch.manual_seed(step)
        drawn = torch.randint(settings.negative_queue or N, (8, K))
        torch.manual_seed(step)
        loss, _ = objective(module.train(), batch)
        (gradient,) = torch.autograd.grad(loss, seen[-1])
        objective.after_step(module)
        features = seen[-1].detach().double().requires_grad_()
        expected = loop.loss([features, batch.teacher_embeddings.double()], rows.tolist(), drawn.tolist())
        (expected_gradient,) = torch.autograd.grad(expected, features)
        loop.keep(rows.tolist())
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        torch.testing.assert_close(
            gradient.double(), expected_gradient, rtol=1e-5, atol=1e-5 * float(expected_gradient.abs().max())
        )
        assert objective.constants.tolist() == pytest.approx(loop.constants, rel=1e-5)
        for ours, theirs in zip((objective.student_memory, objective.teacher_memory), loop.memories, strict=True):
            torch.testing.assert_close(ours.rows.double(), theirs, rtol=1e-5, atol=1e-6)
