"""The signature that all objectives share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from torch import nn

from compress_ssl.pipeline.common.device import autocast
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.networks.heads import build_head

if TYPE_CHECKING:
    from torch import Tensor

    from compress_ssl.pipeline.distill.settings import DistillSettings
    from compress_ssl.pipeline.training.memory_bank import MemoryBank


class Dims(NamedTuple):
    """Sizes that follow from the student and the store."""

    student: int
    """F, of the student's feature."""
    teacher: int
    """D, of the teacher's embedding."""
    images: int
    """N, rows of the store's split."""


class Batch(NamedTuple):
    """What an objective sees of a step. B images, D the teacher's dimension, S side in pixels."""

    images: Tensor
    """(B, 3, S, S) float32, normalised for the student."""
    teacher: Tensor
    """(B, D) float32, L2-normalised; the teacher's embeddings of the same views, constant."""
    rows: Tensor
    """(B,) int64 rows of the store's split."""


class AllImages(NamedTuple):
    """The teacher's view 0 of the n good images of a split, on the CPU."""

    embeddings: Tensor
    """(n, D) float32, L2-normalised."""
    rows: Tensor
    """(n,) int64 rows of the store's split."""


class Objective(nn.Module, ABC):
    """A loss that turns a student into the teacher's likeness."""

    in_teachers_space: ClassVar[bool] = False
    """Whether what the head gives is compared with the teacher's embeddings themselves."""
    projection: nn.Module
    """The head: from the student's feature to what is compared, of ``projected_dim`` numbers."""
    teacher_bank: MemoryBank | None
    """The teacher's embeddings of the last images seen; not in the checkpoint, since the store has them."""
    student_bank: MemoryBank | None
    """The key encoder's embeddings of those images."""
    key_encoder: nn.Module | None
    """The student's moving average, where there is one."""

    def __init__(self, student: nn.Module, dims: Dims, settings: DistillSettings) -> None:
        super().__init__()
        self.teacher_bank = self.student_bank = self.key_encoder = None
        self.precision = settings.precision
        self.projection, self.projected_dim = build_head(settings.head_or_own, dims.student, dims.teacher)
        if self.in_teachers_space and self.projected_dim != dims.teacher:
            raise InputError(
                f"--head none leaves '{settings.student}' its {dims.student} features, which cannot be compared with the "
                f"teacher's {dims.teacher} in {settings.objective}; use --head linear or mlp, or --objective compress-2q."
            )

    @abstractmethod
    def forward(self, student: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (a scalar) and scalars to log; of one part of a step's batch."""

    def after_step(self, student: nn.Module) -> None:
        """Do what follows the optimiser's step."""
        del student

    def transform_teacher(self, embeddings: Tensor) -> Tensor:
        """What stands for the teacher's embeddings (B, D) wherever they are compared."""
        return embeddings

    def fit_teacher(self, everything: AllImages) -> None:
        """Take what it needs from all images before the first step, where ``settings.needs_fit``."""
        del everything

    def prefill(self, batch: Batch) -> None:
        """Let a batch enter the student's bank before the first step."""
        del batch

    def encode(self, network: nn.Module, images: Tensor) -> Tensor:
        """Features (B, F) of normalised images, float32; the network runs in the precision of the settings."""
        with autocast(images.device, self.precision):
            features: Tensor = network(images)
        return features.float()

    def projected(self, student: nn.Module, images: Tensor) -> Tensor:
        """What the head gives, (B, ``projected_dim``), of normalised images."""
        projected: Tensor = self.projection(self.encode(student, images))
        return projected
