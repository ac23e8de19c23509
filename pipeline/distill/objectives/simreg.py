"""SimReg: regression of L2-normalised features through an MLP head.

Navaneet et al. 2021, section 3; published code UCDvision/simreg, simreg.py at 43fb804e52f1: the squared
distance of unit vectors, which is 2 minus 2 times their cosine, averaged over the batch. The MLP's four layers are the
paper's best head, and thrown away with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn.functional import normalize

from compress_ssl.pipeline.distill.objectives.objective import Batch, Objective

if TYPE_CHECKING:
    from torch import Tensor, nn


class SimReg(Objective):
    """The squared distance between the directions of the projected feature and the teacher's embedding."""

    in_teachers_space = True

    def forward(self, student: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared distances, averaged over the batch."""
        directions = normalize(self.projected(student, batch.images), dim=1)
        return (directions - batch.teacher).square().sum(dim=1).mean(), {}
