"""CompRess-2q: two memory banks, the teacher's and the student's (Koohpayegani et al. 2020, section 3, equation 3)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import normalize

from pipeline.distill.memory_bank import MemoryBank
from pipeline.distill.objectives.objective import Batch, Objective
from pipeline.distill.objectives.similarity import similarity_divergence

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.distill.settings import DistillSettings


class CompRess2q(Objective):
    """The student's similarities to its own bank follow the teacher's similarities to its bank.

    The student's bank is filled by a key encoder: the student's exponential moving average, with batch norm in
    training mode. Queries meet the banks as they stood before the batch; then the batch enters both.
    """

    def __init__(self, student: nn.Module, feature_dim: int, teacher_dim: int, settings: DistillSettings) -> None:
        super().__init__(student, feature_dim, teacher_dim, settings)
        self.key_encoder = copy.deepcopy(student).requires_grad_(False)
        self.teacher_bank = MemoryBank(settings.bank_size, teacher_dim)
        self.student_bank = MemoryBank(settings.bank_size, feature_dim)
        self.temperature = settings.temperature
        self.momentum = settings.key_momentum

    def forward(self, student: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Divergence of the two distributions over the banks."""
        queries = normalize(student(batch.images), dim=1)
        with torch.no_grad():
            keys = normalize(self.key_encoder(batch.images), dim=1)
        loss, diagnostics = similarity_divergence(
            self.teacher_bank.similarities(batch.teacher), self.student_bank.similarities(queries), self.temperature
        )
        self.entering = batch.teacher, keys
        return loss, diagnostics

    @torch.no_grad()
    def after_step(self, student: nn.Module) -> None:
        """Let the batch enter both banks; move the key encoder's parameters (not its buffers) to the student's."""
        teacher, keys = self.entering
        self.teacher_bank.enqueue(teacher)
        self.student_bank.enqueue(keys)
        for key, query in zip(self.key_encoder.parameters(), student.parameters(), strict=True):
            key.mul_(self.momentum).add_(query, alpha=1 - self.momentum)
