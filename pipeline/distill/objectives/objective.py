"""The signature that all objectives share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.distill.settings import DistillSettings


class Batch(NamedTuple):
    """What an objective sees of a step. B images, D the teacher's dimension, S side in pixels."""

    images: Tensor
    """(B, 3, S, S) float32, normalised for the student."""
    teacher: Tensor
    """(B, D) float32, L2-normalised; the teacher's embeddings of the same views, constant."""
    rows: Tensor
    """(B,) int64 rows of the store's split."""


class Objective(nn.Module, ABC):
    """A loss that turns a student into the teacher's likeness."""

    @abstractmethod
    def __init__(self, student: nn.Module, feature_dim: int, teacher_dim: int, settings: DistillSettings) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, student: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (a scalar) and scalars to log."""

    def after_step(self, student: nn.Module) -> None:
        """Do what follows the optimiser's step."""
        del student
