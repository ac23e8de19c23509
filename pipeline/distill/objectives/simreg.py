"""SimReg: regression of L2-normalised features through an MLP head.

Navaneet et al. 2021, section 3; published code UCDvision/simreg, simreg.py at 43fb804e52f1: the squared
distance of unit vectors, which is 2 minus 2 times their cosine, averaged over the batch. The MLP's four layers are the
paper's best head, which is dropped after training.
"""

from torch import Tensor, nn
from torch.nn.functional import normalize

from compress_ssl.pipeline.distill.objectives import options
from compress_ssl.pipeline.distill.objectives.objective import Batch, Objective


class SimReg(Objective):
    """Minimise the squared distance between the directions of projected feature and teacher's embedding.

    Example:
        >>> student, images = torch.nn.Linear(6, 16), torch.randn(8, 6)
        >>> teacher_embeddings = normalize(torch.randn(8, 32))
        >>> objective = SimReg(student, teacher_dim=32)
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
    ) -> None:
        super().__init__(student, teacher_dim, student_dim, head, precision)

    def compute_loss(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return squared distances, averaged over the batch."""
        directions = normalize(self.projection(features), dim=1)
        return (directions - batch.teacher_embeddings).square().sum(dim=1).mean(), {}
