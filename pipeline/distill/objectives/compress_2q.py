"""CompRess-2q: two memory banks, the teacher's and the student's (Koohpayegani et al. 2020, section 3, equation 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import normalize

from compress_ssl.pipeline.common.device import TORCH_DTYPES
from compress_ssl.pipeline.distill.objectives.similarity import similarity_divergence
from compress_ssl.pipeline.distill.objectives.with_teacher_bank import WithTeacherBank
from compress_ssl.pipeline.training.distributed import gather_rows
from compress_ssl.pipeline.training.ema import ema_copy, ema_update
from compress_ssl.pipeline.training.memory_bank import MemoryBank

if TYPE_CHECKING:
    from torch import Tensor

    from compress_ssl.pipeline.distill.objectives.objective import Batch, Dims
    from compress_ssl.pipeline.distill.settings import DistillSettings


class CompRess2q(WithTeacherBank):
    """The student's similarities to its own bank follow the teacher's similarities to its bank.

    The student's bank is filled by a key encoder: the exponential moving average of the student and its head, with batch
    norm in training mode. Queries meet the banks as they stood before the batch; then the batch enters both.
    """

    key_encoder: nn.Module
    student_bank: MemoryBank

    def __init__(self, student: nn.Module, dims: Dims, settings: DistillSettings) -> None:
        super().__init__(student, dims, settings)
        self.key_encoder = ema_copy(student)
        self.key_projection = ema_copy(self.projection)
        self.student_bank = MemoryBank(settings.bank_size, self.projected_dim, TORCH_DTYPES[settings.bank_precision])
        self.momentum = settings.key_momentum
        self._entering_keys: list[Tensor] = []

    def forward(self, student: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Divergence of the two distributions over the banks."""
        queries = normalize(self.projected(student, batch.images), dim=1)
        self._entering_keys.append(self._keys(batch.images))
        self.stage_for_bank(batch)
        return similarity_divergence(
            self.teacher_bank.similarities(batch.teacher),
            self.student_bank.similarities(queries),
            self.temperature,
            self.teacher_temperature,
            self.teacher_bank.own_rows(batch.rows),
        )

    @torch.no_grad()
    def after_step(self, student: nn.Module) -> None:
        """Let the batch, of all processes, enter both banks; move the key encoder's parameters (not its buffers) to the student's."""
        super().after_step(student)
        self.student_bank.enqueue(gather_rows(torch.cat(self._entering_keys)))
        self._entering_keys.clear()
        for average, trained in ((self.key_encoder, student), (self.key_projection, self.projection)):
            ema_update(average, trained, self.momentum)

    def prefill(self, batch: Batch) -> None:
        """Let the key encoder's embeddings of a batch enter the student's bank."""
        self.student_bank.enqueue(gather_rows(self._keys(batch.images)))

    @torch.no_grad()
    def _keys(self, images: Tensor) -> Tensor:
        return normalize(self.key_projection(self.encode(self.key_encoder, images)), dim=1)
