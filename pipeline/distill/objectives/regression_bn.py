"""Reg-BN: regression after a batch norm of both sides, without affine parameters.

Koohpayegani et al. 2020, section 4 ("Reg-BN"): a non-parametric batch norm after the last layer of both networks, with
the statistics of the batch alone. Squared differences are averaged over dimensions: of dimensions of variance one
this has the range (0 to 4) that Reg's sum has of unit vectors. The statistics are of the whole batch, over all ranks.
"""

from torch import Tensor, nn
from torch.nn.functional import batch_norm

from compress_ssl.pipeline.distill.objectives import options
from compress_ssl.pipeline.distill.objectives.objective import Batch, Objective
from compress_ssl.pipeline.training.distributed import gather_rows, gather_with_gradient


class RegressionBN(Objective):
    """Minimise the mean squared difference between the standardised dimensions of both sides.

    Example:
        >>> student, images = torch.nn.Linear(6, 16), torch.randn(8, 6)
        >>> teacher_embeddings = torch.nn.functional.normalize(torch.randn(8, 32))
        >>> objective = RegressionBN(student, teacher_dim=32)
        >>> optimizer = torch.optim.SGD([*student.parameters(), *objective.parameters()], lr=0.01)
        >>> for _ in range(3):
        ...     loss, logged = objective(student, Batch(images, teacher_embeddings))
        ...     optimizer.zero_grad(); loss.backward(); optimizer.step(); objective.after_step(student)
    """

    in_teacher_space = True

    def __init__(
        self,
        student: nn.Module,
        *,
        teacher_dim: int,
        student_dim: int | None = None,
        precision: options.Precision = "float32",
        head: options.HeadName = "linear",
    ) -> None:
        super().__init__(student, teacher_dim, student_dim, head, precision)

    def compute_loss(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return squared differences, averaged over dimensions and batch."""
        projected = gather_with_gradient(self.projection(features))
        # Dimensions of unit vectors have mean squares of 1 / D, beside which batch norm's epsilon of 1e-5 is not small.
        teacher = gather_rows(batch.teacher_embeddings) * batch.teacher_embeddings.shape[1] ** 0.5
        difference = batch_norm(projected, None, None, training=True) - batch_norm(teacher, None, None, training=True)
        return difference.square().mean(), {}
