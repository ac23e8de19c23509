"""Losses against several teachers at once: of an objective, and of patches.

Letters: T teachers, B batch.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compress_ssl.pipeline.distill.objectives.objective import Batch, Objective
from compress_ssl.pipeline.distill.objectives.patches import PATCH_OBJECTIVES


class MultiTeacher(nn.Module):
    """Several teachers of one student: the weighted mean of one objective's losses against each of them.

    Each teacher has an objective of its own, with its banks, head and clusters. The student runs once per step, and all
    objectives get its features; the key encoder of CompRess-2q runs once per teacher. In training,
    with ``teacher_dropping``, the mean is over the kept pairs of image and teacher (``drop_teachers``).

    Args:
        weights: They add up to one.
    """

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
        dropping = self.of_each[0].teacher_dropping if self.training else 0
        losses: list[Tensor] = []
        logged: dict[str, Tensor] = {}
        for number, (objective, batch) in enumerate(zip(self.of_each, batches, strict=True), 1):
            # A view, so that each objective's gradient is summed by itself: two equal halves are exactly the whole.
            loss, diagnostics = objective.compute_loss(features.view_as(features), batch)
            losses.append(loss if dropping else loss.mean())
            values = {"loss": loss.detach().mean(), **diagnostics}
            logged |= {f"{name}_{number}": value for name, value in values.items()}
        factors: Sequence[Tensor | float] = self.weights
        if dropping:
            factors = drop_teachers(torch.stack(losses).detach(), self.weights, dropping).unbind()
            logged |= {f"kept_{number}": (each > 0).float().mean() for number, each in enumerate(factors, 1)}
        mean = features.new_zeros(())
        for factor, loss in zip(factors, losses, strict=True):
            mean = mean + (factor * loss).sum()
        return mean, logged

    def after_step(self, student: nn.Module) -> None:
        """Update banks and key encoders; called after each step of the optimizer."""
        for objective in self.of_each:
            objective.after_step(student)


def drop_teachers(losses: Tensor, weights: Sequence[float], probability: float) -> Tensor:
    """Draw which teachers are kept; return the factors (T, B) of the losses (T, B), which add up to one.

    Sariyildiz et al. 2024; published code naver/unic, modeling/teacher_dropping.py at 02269dbfa293 (DUNE has the same
    as "lowest_loss"): of each image the teacher with the largest loss is kept, and every other one is dropped with the
    given probability. The mean is over all kept pairs of image and teacher in the batch: of each rank, and of each
    micro-batch. With weights it is the weighted mean over these pairs.
    """
    kept = torch.rand_like(losses) >= probability
    kept.scatter_(0, losses.argmax(dim=0, keepdim=True), True)
    factors = torch.stack([weight * row for weight, row in zip(weights, kept, strict=True)])
    return factors / factors.sum()


class PatchLoss(nn.Module):
    """The loss on the patches of one teacher or several: the weighted mean, from one feature map of the student.

    Args:
        name: One of ``PATCH_OBJECTIVES``.
        channels: Of the student's map.
        bases: Mean and basis of each teacher's patches.
        weights: They add up to one.
        seed: Of the initial layers.
    """

    def __init__(
        self, name: str, channels: int, bases: Sequence[tuple[Tensor, Tensor]], weights: Sequence[float], seed: int
    ) -> None:
        super().__init__()
        objectives = []
        for basis in bases:
            torch.manual_seed(seed)  # for each teacher as if it were the only one
            objectives.append(PATCH_OBJECTIVES[name](channels, *basis))
        self.of_each: Any = nn.ModuleList(objectives)
        self.weights = tuple(weights)

    def forward(self, feature_map: Tensor, *batches: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and as scalars to log it and, with several teachers, each one's, numbered from 1."""
        loss = feature_map.new_zeros((), dtype=torch.float32)
        numbered: dict[str, Tensor] = {}
        for number, (objective, weight, batch) in enumerate(zip(self.of_each, self.weights, batches, strict=True), 1):
            one = objective(feature_map, batch.teacher_patches)
            loss = loss + weight * one
            numbered[f"patch_loss_{number}"] = one.detach()
        return loss, {"patch_loss": loss.detach()} | (numbered if len(batches) > 1 else {})
