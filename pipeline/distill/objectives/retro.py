"""Retro: the student is compared with the teacher behind the teacher's own projection head, which is frozen.

Nguyen and Park 2024, arXiv 2405.15311: an adapter maps the student's features to the teacher's dimension, and both go
through the head that the teacher was trained with. The distance is that of DisCo, which Retro extends (Gao et al. 2022;
Yuting-Gao/DisCo-pytorch, DisCo/moco/builder_kq_mse_largeembedding_2048.py at 35da4b316459): squared, between unit
vectors; here summed over dimensions, as SimReg's is. Retro's second loss, MoCo's contrast of the student with its mean
over two views of each image, is left out: a store's epoch has one. The adapter is one of this project's heads.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.torch_errors import first_line
from compress_ssl.pipeline.distill.objectives import options
from compress_ssl.pipeline.distill.objectives.objective import Batch, Objective
from compress_ssl.pipeline.distill.objectives.regression import direction_loss


class Retro(Objective):
    """Minimise the squared distance of student's and teacher's directions behind the teacher's projection head.

    ``Batch.teacher_embeddings`` are the teacher's, not normalised: what its head was trained on.

    Args:
        projection_head: Maps the teacher's embeddings (B, D) to (B, P). It is frozen, and in evaluation mode always.

    Raises:
        InputError: If the projection head takes another dimension than D.

    Example:
        >>> student, images = nn.Linear(6, 16), torch.randn(8, 6)
        >>> projection_head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 12))
        >>> teacher_embeddings = torch.randn(8, 32).relu()
        >>> objective = Retro(student, teacher_dim=32, projection_head=projection_head)
        >>> trained = [weight for weight in objective.parameters() if weight.requires_grad]
        >>> optimizer = torch.optim.SGD([*student.parameters(), *trained], lr=0.01)
        >>> for _ in range(3):
        ...     loss, logged = objective(student, Batch(images, teacher_embeddings))
        ...     optimizer.zero_grad(); loss.backward(); optimizer.step(); objective.after_step(student)
    """

    in_teacher_space = True
    normalise_teacher = False

    def __init__(
        self,
        student: nn.Module,
        *,
        teacher_dim: int,
        projection_head: nn.Module,
        student_dim: int | None = None,
        precision: options.Precision = "float32",
        head: options.HeadName = "linear",
    ) -> None:
        super().__init__(student, teacher_dim, student_dim, head, precision)
        self.projection_head = projection_head.eval().requires_grad_(False)
        try:
            projection_head(torch.zeros(1, teacher_dim))
        except RuntimeError as error:
            raise InputError(
                f"The projection head does not take the teacher's {teacher_dim} features "
                f"({first_line(error)}); give the head of this teacher."
            ) from error

    def train(self, mode: bool = True) -> "Retro":
        """Set the mode of all but the projection head."""
        super().train(mode)
        self.projection_head.eval()
        return self

    def compute_loss(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return squared distances, averaged over the batch."""
        ours = normalize(self.projection_head(self.projection(features)), dim=1)
        theirs = normalize(self.projection_head(batch.teacher_embeddings), dim=1)
        return direction_loss(ours, theirs), {}
