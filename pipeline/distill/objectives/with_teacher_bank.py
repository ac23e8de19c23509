"""What objectives with a bank of the teacher's embeddings have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import normalize

from compress_ssl.pipeline.common.device import TORCH_DTYPES
from compress_ssl.pipeline.distill.objectives.objective import AllImages, Batch, Dims, Objective
from compress_ssl.pipeline.training.distributed import gather_rows
from compress_ssl.pipeline.training.memory_bank import MemoryBank

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress_ssl.pipeline.distill.settings import DistillSettings


class WithTeacherBank(Objective):
    """An objective whose anchors are the teacher's embeddings of the last images.

    Queries meet the bank as it stood before the batch; then the batch enters.
    """

    teacher_bank: MemoryBank
    teacher_mean: Tensor | None

    def __init__(self, student: nn.Module, dims: Dims, settings: DistillSettings) -> None:
        super().__init__(student, dims, settings)
        self.teacher_bank = MemoryBank(
            settings.bank_size,
            dims.teacher,
            TORCH_DTYPES[settings.bank_precision],
            in_checkpoint=settings.anchors != "queue",  # a queue is made again from the store
            notes_images=settings.mask_own,
        )
        self.register_buffer("teacher_mean", torch.zeros(dims.teacher) if settings.centre else None)
        self.temperature, self.teacher_temperature = settings.temperature, settings.teacher_temperature
        self._entering: list[tuple[Tensor, Tensor]] = []

    def transform_teacher(self, embeddings: Tensor) -> Tensor:
        """The embeddings, or their directions from the teacher's mean where it is subtracted."""
        return embeddings if self.teacher_mean is None else normalize(embeddings - self.teacher_mean, dim=1)

    @torch.no_grad()
    def fit_teacher(self, everything: AllImages) -> None:
        """Take the teacher's mean."""
        if self.teacher_mean is not None:
            self.teacher_mean.copy_(everything.embeddings.mean(dim=0, dtype=torch.float64))

    def after_step(self, student: nn.Module) -> None:
        """Let the batch, of all processes, enter the bank."""
        del student
        embeddings, rows = (gather_rows(torch.cat(parts)) for parts in zip(*self._entering, strict=True))
        self.teacher_bank.enqueue(embeddings, rows)
        self._entering.clear()

    def stage_for_bank(self, batch: Batch) -> None:
        """Note a part of a batch that enters the bank after the step."""
        self._entering.append((batch.teacher, batch.rows))
