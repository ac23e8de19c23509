"""SEED: the teacher's similarities to its queue, with the image's own embedding put in front of it as one more anchor.

Fang et al. 2021, section 3.2; published code jacobswan1/SEED, seed/builder.py at 81ff9332e9d8. The
teacher's temperature is 0.01 and the student's 0.2, the queue has 65,536 rows, as in the paper (its code's default for
the teacher is 1e-4). The loss here is the divergence: the paper's cross-entropy less the teacher's entropy, which has
no gradient. The teacher's embedding is the store's, without the projection that the paper's teachers keep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import normalize

from compress_ssl.pipeline.distill.objectives.similarity import similarity_divergence
from compress_ssl.pipeline.distill.objectives.with_teacher_bank import WithTeacherBank

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress_ssl.pipeline.distill.objectives.objective import Batch


class SEED(WithTeacherBank):
    """The projected student has the teacher's similarities to the teacher's embedding of the same view and to its queue."""

    in_teachers_space = True

    def forward(self, student: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Divergence of the two distributions over the embedding of the view and the queue."""
        queries = normalize(self.projected(student, batch.images), dim=1)
        self.stage_for_bank(batch)
        own = self.teacher_bank.own_rows(batch.rows)
        return similarity_divergence(
            self._similarities(batch.teacher, batch.teacher),
            self._similarities(queries, batch.teacher),
            self.temperature,
            self.teacher_temperature,
            None if own is None else torch.nn.functional.pad(own, (1, 0)),
        )

    def _similarities(self, queries: Tensor, teacher: Tensor) -> Tensor:
        """To the teacher's embedding of the view first, then to the queue: (B, 1 + K)."""
        in_front = (queries * teacher).sum(dim=1, keepdim=True)
        return torch.cat([in_front, self.teacher_bank.similarities(queries)], dim=1)
