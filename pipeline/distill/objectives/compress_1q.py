"""CompRess-1q: one memory bank, the teacher's (Koohpayegani et al. 2020, section 3, equation 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import normalize

from pipeline.distill.memory_bank import MemoryBank
from pipeline.distill.objectives.objective import Batch, Objective
from pipeline.distill.objectives.similarity import similarity_divergence
from pipeline.errors import InputError
from pipeline.machine import TORCH_TYPES
from pipeline.training.distributed import gather_rows

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.distill.settings import DistillSettings


class CompRess1q(Objective):
    """The student, projected into the teacher's space, has the teacher's similarities to the teacher's bank."""

    own_head = "linear"
    teacher_bank: MemoryBank

    def __init__(self, student: nn.Module, feature_dim: int, teacher_dim: int, settings: DistillSettings) -> None:
        super().__init__(student, feature_dim, teacher_dim, settings)
        if self.projected_dim != teacher_dim:
            raise InputError(
                f"--head none leaves '{settings.student}' its {feature_dim} features, which cannot be compared with the "
                f"teacher's {teacher_dim} in {settings.objective}; use --head linear or mlp, or --objective compress-2q."
            )
        dtype = TORCH_TYPES[settings.bank_precision]
        self.teacher_bank = MemoryBank(settings.bank_size, teacher_dim, dtype, in_checkpoint=False)
        self.temperature = settings.temperature
        self._entering: list[Tensor] = []

    def forward(self, student: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Divergence of the two distributions over the teacher's bank."""
        queries = normalize(self.projection(self.encode(student, batch.images)), dim=1)
        loss, diagnostics = similarity_divergence(
            self.teacher_bank.similarities(batch.teacher), self.teacher_bank.similarities(queries), self.temperature
        )
        self._entering.append(batch.teacher)
        return loss, diagnostics

    def after_step(self, student: nn.Module) -> None:
        """Let the batch, of all processes, enter the bank."""
        del student
        self.teacher_bank.enqueue(gather_rows(torch.cat(self._entering)))
        self._entering.clear()
