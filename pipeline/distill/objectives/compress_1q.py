"""CompRess-1q: one memory bank, the teacher's (Koohpayegani et al. 2020, section 3, equation 4).

Its anchors may also be fixed: the teacher's embeddings of random images, or centres of their k-means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import normalize

from compress_ssl.pipeline.common.k_means import k_means
from compress_ssl.pipeline.distill.objectives.similarity import similarity_divergence
from compress_ssl.pipeline.distill.objectives.with_teacher_bank import WithTeacherBank
from compress_ssl.pipeline.training.schedule import epoch_order

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress_ssl.pipeline.distill.objectives.objective import AllImages, Batch, Dims
    from compress_ssl.pipeline.distill.settings import DistillSettings

ANCHORS = 2**33
"""Number of the order in which images become fixed anchors: no epoch has it."""


class CompRess1q(WithTeacherBank):
    """The student, projected into the teacher's space, has the teacher's similarities to the teacher's bank."""

    in_teachers_space = True

    def __init__(self, student: nn.Module, dims: Dims, settings: DistillSettings) -> None:
        super().__init__(student, dims, settings)
        self.anchors, self.seed = settings.anchors, settings.seed

    @torch.no_grad()
    def fit_teacher(self, everything: AllImages) -> None:
        """Take the teacher's mean and the fixed anchors."""
        super().fit_teacher(everything)
        device, size = self.teacher_bank.rows.device, len(self.teacher_bank.rows)
        if self.anchors == "random":
            chosen = epoch_order(np.arange(len(everything.rows)), self.seed, ANCHORS)[:size]
            embeddings, rows = (each[chosen].to(device) for each in everything)
            self.teacher_bank.enqueue(self.transform_teacher(embeddings), rows)
        elif self.anchors == "k-means":
            embeddings = self.transform_teacher(everything.embeddings.to(device))
            centroids = k_means(embeddings, size, self.seed, device).centroids
            self.teacher_bank.enqueue(normalize(centroids.to(device), dim=1))

    def after_step(self, student: nn.Module) -> None:
        """Let the batch, of all processes, enter the bank, unless its anchors are fixed."""
        if self.anchors == "queue":
            super().after_step(student)
        self._entering.clear()

    def forward(self, student: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Divergence of the two distributions over the teacher's bank."""
        bank = self.teacher_bank
        queries = normalize(self.projected(student, batch.images), dim=1)
        self.stage_for_bank(batch)
        return similarity_divergence(
            bank.similarities(batch.teacher),
            bank.similarities(queries),
            self.temperature,
            self.teacher_temperature,
            bank.own_rows(batch.rows),
        )
