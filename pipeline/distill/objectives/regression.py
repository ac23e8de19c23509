"""Reg: the student's feature, through a linear head, is regressed to the teacher's embedding.

Koohpayegani et al. 2020, section 4 ("Reg"): Romero et al. 2015 (FitNets), equation 3, at the last layer alone. The squared
distance is summed over dimensions, as there (less its factor of one half): averaged over them it would be about 1 / D of
unit vectors, and so would its gradients. The teacher's embedding is L2-normalised, the student's is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.distill.objectives.objective import Batch, Objective

if TYPE_CHECKING:
    from torch import Tensor, nn


class Regression(Objective):
    """The squared distance between the projected feature and the teacher's embedding."""

    in_teachers_space = True

    def forward(self, student: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared distances, averaged over the batch."""
        distances = (self.projected(student, batch.images) - batch.teacher).square().sum(dim=1)
        return distances.mean(), {}
