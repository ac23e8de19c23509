"""Reg: the student's feature, through a linear head, is regressed to the teacher's embedding.

Koohpayegani et al. 2020, section 4 ("Reg"): Romero et al. 2015 (FitNets), equation 3, at the last layer alone. The squared
distance is summed over dimensions, as there (less its factor of one half): averaged over them it would be about 1 / D of
unit vectors, and so would its gradients. The teacher's embedding is L2-normalised, the student's is not.

The head begins with zeros in its last layer, which is ours: as torch draws it, what it gives of features that no
normalisation bounds is many times as long as the teacher's unit vectors, and a student gets rid of that length first, with
all that told its images apart (docs/results.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from compress_ssl.pipeline.distill.objectives.objective import Batch, Dims, Objective

if TYPE_CHECKING:
    from torch import Tensor

    from compress_ssl.pipeline.distill.settings import DistillSettings


class Regression(Objective):
    """The squared distance between the projected feature and the teacher's embedding."""

    in_teachers_space = True

    def __init__(self, student: nn.Module, dims: Dims, settings: DistillSettings) -> None:
        super().__init__(student, dims, settings)
        for layer in [layer for layer in self.projection.modules() if isinstance(layer, nn.Linear)][-1:]:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, student: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared distances, averaged over the batch."""
        distances = (self.projected(student, batch.images) - batch.teacher).square().sum(dim=1)
        return distances.mean(), {}
