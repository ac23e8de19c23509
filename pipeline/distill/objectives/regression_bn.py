"""Reg-BN: regression after both sides went through a batch norm of their own, without affine parameters.

Koohpayegani et al. 2020, section 4 ("Reg-BN"): a non-parametric batch norm after the last layer of both networks, with
the statistics of the batch alone. Squared differences are averaged over dimensions: of dimensions of variance one
this has the range (0 to 4) that Reg's sum has of unit vectors. The statistics are of the whole batch, of all processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn.functional import batch_norm

from compress_ssl.pipeline.distill.objectives.objective import Batch, Objective
from compress_ssl.pipeline.training.distributed import gather_rows, gather_with_gradient

if TYPE_CHECKING:
    from torch import Tensor, nn


class RegressionBN(Objective):
    """The mean squared difference between the whitened dimensions of projected feature and teacher's embedding."""

    in_teachers_space = True

    def forward(self, student: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared differences, averaged over dimensions and batch."""
        projected = gather_with_gradient(self.projected(student, batch.images))
        # Dimensions of unit vectors have mean squares of 1 / D, which batch norm's epsilon of 1e-5 would not be small to.
        teacher = gather_rows(batch.teacher) * batch.teacher.shape[1] ** 0.5
        difference = batch_norm(projected, None, None, training=True) - batch_norm(teacher, None, None, training=True)
        return difference.square().mean(), {}
