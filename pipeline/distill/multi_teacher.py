"""Several teachers of one student: the weighted mean of one objective's losses against each of them.

Each teacher has an objective of its own, with its banks, head and clusters. The student runs once per step, and all
objectives get its features; the key encoder of CompRess-2q runs once per teacher.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from compress_ssl.pipeline.distill.objectives.objective import Batch, Objective


class MultiTeacher(nn.Module):
    """One objective per teacher, called with one batch per teacher; the weights of their losses add up to one."""

    def __init__(self, objectives: Sequence[Objective], weights: Sequence[float]) -> None:
        super().__init__()
        self.of_each: Any = nn.ModuleList(objectives)
        self.weights = tuple(weights)

    def forward(self, student: nn.Module, *batches: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted mean, and each objective's loss and scalars to log, numbered from 1.

        Args:
            batches: One per teacher, of the same images.
        """
        features: Tensor = self.of_each[0].encode(student, batches[0].images)
        mean = features.new_zeros(())
        logged: dict[str, Tensor] = {}
        for number, (objective, weight, batch) in enumerate(zip(self.of_each, self.weights, batches, strict=True), 1):
            # A view, so that each objective's gradient is summed by itself: two equal halves are exactly the whole.
            loss, diagnostics = objective.compute_loss(features.view_as(features), batch)
            mean = mean + weight * loss
            values = {"loss": loss.detach(), **diagnostics}
            logged |= {f"{name}_{number}": value for name, value in values.items()}
        return mean, logged

    def after_step(self, student: nn.Module) -> None:
        """Update banks and key encoders; called after each step of the optimizer."""
        for objective in self.of_each:
            objective.after_step(student)
