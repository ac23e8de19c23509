"""KoLeo: the regression of SimReg, and a differential entropy that spreads the student's directions.

Sablayrolles et al. 2019 ("Spreading vectors for similarity search"), section 3; published code
facebookresearch/dinov2, dinov2/loss/koleo_loss.py at 05c66df0cfa8, with the weight 0.1 of
dinov2/configs/ssl_default_config.yaml at 01c36387fc3c: the Kozachenko-Leonenko estimator, minus the mean log distance
of each unit vector to its nearest neighbour in the batch. DINOv2 computes it on each GPU's images alone; here the batch
is that of all ranks, so that the loss does not depend on their number.

Letters: B batch over all ranks, D the teacher's dimension.
"""

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pairwise_distance

from compress_ssl.pipeline.common.settings import result_option
from compress_ssl.pipeline.distill.objectives import options
from compress_ssl.pipeline.distill.objectives.objective import Batch, Objective
from compress_ssl.pipeline.distill.objectives.regression import direction_loss
from compress_ssl.pipeline.training.distributed import gather_with_gradient

EPSILON = 1e-8  # of the published code: added to the difference of two vectors, and to the distance


class KoLeo(Objective):
    """Minimise the squared distance to the teacher's direction, and the entropy regulariser of the student's.

    Needs at least two images per micro-batch.

    Example:
        >>> student, images = nn.Linear(6, 16), torch.randn(8, 6)
        >>> teacher_embeddings = normalize(torch.randn(8, 32))
        >>> objective = KoLeo(student, teacher_dim=32)
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
        head: options.HeadName = "mlp",
        koleo_weight: Annotated[
            float, result_option("Weight of the entropy regulariser, beside a regression of weight 1", ge=0)
        ] = 0.1,
    ) -> None:
        super().__init__(student, teacher_dim, student_dim, head, precision)
        self.koleo_weight = koleo_weight

    def compute_loss(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return squared distances averaged over the batch, plus the weighted regulariser."""
        directions = normalize(self.projection(features), dim=1)
        regression = direction_loss(directions, batch.teacher_embeddings)
        regulariser = koleo(gather_with_gradient(directions))
        logged = {"regression_loss": regression.detach(), "koleo_loss": regulariser.detach()}
        return regression + self.koleo_weight * regulariser, logged


def koleo(directions: Tensor) -> Tensor:
    """Return minus the mean log distance of unit vectors (B, D) to their nearest neighbours; B is at least 2."""
    with torch.no_grad():
        nearest = (directions @ directions.T).fill_diagonal_(-torch.inf).argmax(dim=1)
    return -(pairwise_distance(directions, directions[nearest], eps=EPSILON) + EPSILON).log().mean()
