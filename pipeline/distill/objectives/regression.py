"""Reg: the student's feature, through a linear head, is regressed to the teacher's embedding.

Koohpayegani et al. 2020, section 4 ("Reg"): Romero et al. 2015 (FitNets), equation 3, at the last layer alone. The
squared distance is summed over dimensions, as there (less its factor of one half): averaged over them it would be about
1 / D of unit vectors, and so would its gradients. The teacher's embedding is L2-normalised, the student's is not.

The last layer of the head starts at zero, which is ours: as torch initialises it, the projection of features that no
normalisation bounds is many times as long as the teacher's unit vectors, and a student first gets rid of that length,
and with it of all that told its images apart (docs/results.md).
"""

from torch import Tensor, nn

from compress_ssl.pipeline.distill.objectives import options
from compress_ssl.pipeline.distill.objectives.objective import Batch, Objective


class Regression(Objective):
    """Minimise the squared distance between the projected feature and the teacher's embedding.

    Example:
        >>> student, images = nn.Linear(6, 16), torch.randn(8, 6)
        >>> teacher_embeddings = nn.functional.normalize(torch.randn(8, 32))
        >>> objective = Regression(student, teacher_dim=32)
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
        for layer in [layer for layer in self.projection.modules() if isinstance(layer, nn.Linear)][-1:]:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def compute_loss(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return squared distances, averaged over the batch."""
        distances = (self.projection(features) - batch.teacher_embeddings).square().sum(dim=1)
        return distances.mean(), {}
