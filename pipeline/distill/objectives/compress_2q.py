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
from pipeline.machine import TORCH_TYPES
from pipeline.training.distributed import gather_rows

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.distill.settings import DistillSettings


class CompRess2q(Objective):
    """The student's similarities to its own bank follow the teacher's similarities to its bank.

    The student's bank is filled by a key encoder: the exponential moving average of the student and its head, with batch
    norm in training mode. Queries meet the banks as they stood before the batch; then the batch enters both.
    """

    own_head = "none"
    key_encoder: nn.Module
    teacher_bank: MemoryBank
    student_bank: MemoryBank

    def __init__(self, student: nn.Module, feature_dim: int, teacher_dim: int, settings: DistillSettings) -> None:
        super().__init__(student, feature_dim, teacher_dim, settings)
        self.key_encoder = copy.deepcopy(student).requires_grad_(False)
        self.key_projection = copy.deepcopy(self.projection).requires_grad_(False)
        dtype = TORCH_TYPES[settings.bank_precision]
        self.teacher_bank = MemoryBank(settings.bank_size, teacher_dim, dtype, in_checkpoint=False)
        self.student_bank = MemoryBank(settings.bank_size, self.projected_dim, dtype)
        self.temperature = settings.temperature
        self.momentum = settings.key_momentum
        self._entering: list[tuple[Tensor, Tensor]] = []

    def forward(self, student: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Divergence of the two distributions over the banks."""
        queries = normalize(self.projection(self.encode(student, batch.images)), dim=1)
        keys = self._keys(batch.images)
        loss, diagnostics = similarity_divergence(
            self.teacher_bank.similarities(batch.teacher), self.student_bank.similarities(queries), self.temperature
        )
        self._entering.append((batch.teacher, keys))
        return loss, diagnostics

    @torch.no_grad()
    def after_step(self, student: nn.Module) -> None:
        """Let the batch, of all processes, enter both banks; move the key encoder's parameters (not its buffers) to the student's."""
        for bank, entering in zip(
            (self.teacher_bank, self.student_bank), zip(*self._entering, strict=True), strict=True
        ):
            bank.enqueue(gather_rows(torch.cat(entering)))
        self._entering.clear()
        for average, trained in ((self.key_encoder, student), (self.key_projection, self.projection)):
            for key, query in zip(average.parameters(), trained.parameters(), strict=True):
                key.mul_(self.momentum).add_(query, alpha=1 - self.momentum)

    def prefill(self, batch: Batch) -> None:
        """Let the key encoder's embeddings of a batch enter the student's bank."""
        self.student_bank.enqueue(gather_rows(self._keys(batch.images)))

    @torch.no_grad()
    def _keys(self, images: Tensor) -> Tensor:
        return normalize(self.key_projection(self.encode(self.key_encoder, images)), dim=1)
