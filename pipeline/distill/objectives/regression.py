"""The student's feature, through a head, is regressed to the teacher's embedding: Reg, Reg-BN and SimReg.

Reg and Reg-BN: Koohpayegani et al. 2020, section 4. SimReg: Navaneet et al. 2021.
"""

from torch import Tensor, nn
from torch.nn.functional import batch_norm, normalize

from compress_ssl.pipeline.distill.objectives import options
from compress_ssl.pipeline.distill.objectives.objective import Batch, Objective
from compress_ssl.pipeline.training.distributed import gather_rows, gather_with_gradient


class Regression(Objective):
    """Minimise the squared distance between the projected feature and the teacher's embedding ("Reg").

    Romero et al. 2015 (FitNets), equation 3, at the last layer alone. The squared distance is summed over dimensions,
    as there (less its factor of one half): averaged over them it would be about 1 / D of unit vectors, and so would its
    gradients. The teacher's embedding is L2-normalised, the student's is not.

    The last layer of the head starts at zero, which is ours: as torch initialises it, the projection of features that
    no normalisation bounds is many times as long as the teacher's unit vectors, and a student first gets rid of that
    length, and with it of all that told its images apart (docs/results.md).

    Example:
        >>> student, images = nn.Linear(6, 16), torch.randn(8, 6)
        >>> teacher_embeddings = normalize(torch.randn(8, 32))
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


class RegressionBN(Objective):
    """Minimise the mean squared difference between the standardised dimensions of both sides ("Reg-BN").

    A non-parametric batch norm after the last layer of both networks, without affine parameters, with the statistics of
    the batch alone: of the whole batch, over all ranks. Squared differences are averaged over dimensions: of dimensions
    of variance one this has the range (0 to 4) that Reg's sum has of unit vectors.

    Example:
        >>> student, images = nn.Linear(6, 16), torch.randn(8, 6)
        >>> teacher_embeddings = normalize(torch.randn(8, 32))
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


class SimReg(Objective):
    """Minimise the squared distance between the directions of projected feature and teacher's embedding.

    Navaneet et al. 2021, section 3; published code UCDvision/simreg, simreg.py at 43fb804e52f1: the squared distance of
    unit vectors, which is 2 minus 2 times their cosine, averaged over the batch. The MLP's four layers are the paper's
    best head, which is dropped after training.

    Example:
        >>> student, images = nn.Linear(6, 16), torch.randn(8, 6)
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
        return direction_loss(normalize(self.projection(features), dim=1), batch.teacher_embeddings), {}


def direction_loss(directions: Tensor, targets: Tensor) -> Tensor:
    """Return the squared distance of unit vectors (B, D), averaged over the batch: 2 minus 2 times their cosine."""
    return (directions - targets).square().sum(dim=1).mean()
