"""Several teachers of one student: the weighted mean of one objective's losses against each of them.

Each teacher has an objective of its own, with its banks, head and clusters. The student runs once a step, and all
objectives are given its features; a key encoder (CompRess-2q) runs once for each teacher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from compress_ssl.pipeline.distill.objectives.objective import Batch, Objective


class MultiTeacher(nn.Module):
    """An objective for each teacher; called as one, with a batch for each."""

    def __init__(self, objectives: Sequence[Objective], weights: Sequence[float]) -> None:
        """Take the objectives, and the weights of their losses, which add up to one."""
        super().__init__()
        self.of_each: Any = nn.ModuleList(objectives)
        self.weights = tuple(weights)

    def forward(self, student: nn.Module, *batches: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted mean; each objective's loss and what it logs, numbered from 1 in the order of the teachers.

        Parameters
        ----------
        batches : Batch
            One for each teacher, of the same images.
        """
        seen = _Seen(self.of_each[0].encode(student, batches[0].images))
        mean: Tensor = seen.features.new_zeros(())
        logged: dict[str, Tensor] = {}
        for number, (objective, weight, batch) in enumerate(zip(self.of_each, self.weights, batches, strict=True), 1):
            loss, diagnostics = objective(seen, batch)
            mean = mean + weight * loss
            values = {"loss": loss.detach(), **diagnostics}
            logged |= {f"{name}_{number}": value for name, value in values.items()}
        return mean, logged

    def after_step(self, student: nn.Module) -> None:
        """Do what follows the optimiser's step, for each teacher."""
        for objective in self.of_each:
            objective.after_step(student)


class _Seen(nn.Module):
    """A student that has seen a batch: gives the features of its images again."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features

    def forward(self, images: Tensor) -> Tensor:
        del images
        # A view, so that each objective's gradient is summed up by itself: two equal halves are then exactly the whole.
        return self.features.view_as(self.features)
