"""CompRess-1q: one memory bank, the teacher's (Koohpayegani et al. 2020, section 3, equation 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn.functional import normalize

from pipeline.distill.objectives.similarity import similarity_divergence
from pipeline.distill.objectives.with_teacher_bank import WithTeacherBank

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.distill.objectives.objective import Batch


class CompRess1q(WithTeacherBank):
    """The student, projected into the teacher's space, has the teacher's similarities to the teacher's bank."""

    in_teachers_space = True

    def forward(self, student: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Divergence of the two distributions over the teacher's bank."""
        bank = self.teacher_bank
        queries = normalize(self.projected(student, batch.images), dim=1)
        self.entering(batch)
        return similarity_divergence(
            bank.similarities(batch.teacher),
            bank.similarities(queries),
            self.temperature,
            self.teacher_temperature,
            bank.own_rows(batch.rows),
        )
