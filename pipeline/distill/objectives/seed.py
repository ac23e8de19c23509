"""SEED: the teacher's similarities to its queue, with the image's own embedding prepended as one more anchor.

Fang et al. 2021, section 3.2; published code jacobswan1/SEED, seed/builder.py at 81ff9332e9d8. The
teacher's temperature is 0.01 and the student's 0.2, the queue has 65,536 rows, as in the paper (its code's default for
the teacher is 1e-4). The loss here is the divergence: the paper's cross-entropy less the teacher's entropy, which has
no gradient. The teacher's embedding is the store's, without the projection that the paper's teachers keep.
"""

from torch import Tensor, nn
from torch.nn.functional import normalize

from compress_ssl.pipeline.distill.objectives import options
from compress_ssl.pipeline.distill.objectives.objective import Batch
from compress_ssl.pipeline.distill.objectives.teacher_bank_objective import TeacherBankObjective


class SEED(TeacherBankObjective):
    """Match the teacher's similarities to its own embedding of the view and to its queue.

    Example:
        >>> student, images = torch.nn.Linear(6, 16), torch.randn(8, 6)
        >>> teacher_embeddings = normalize(torch.randn(8, 32))
        >>> objective = SEED(student, teacher_dim=32, bank_size=64)
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
        head: options.HeadName = "mlp-2",
        temperature: options.Temperature = 0.2,
        teacher_temperature: options.TeacherTemperature = 0.01,
        bank_size: options.BankSize = 65_536,
        bank_precision: options.BankPrecision = "float32",
        mask_own: options.MaskOwn = False,
        centre: options.Centre = False,
    ) -> None:
        super().__init__(student, teacher_dim, student_dim, head, precision)
        self.temperature, self.teacher_temperature = temperature, teacher_temperature
        self.add_teacher_bank(teacher_dim, bank_size, bank_precision, mask_own=mask_own, centre=centre)

    def compute_loss(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the divergence of the two distributions over the view's embedding and the queue."""
        queries = normalize(self.projection(features), dim=1)
        return self.bank_divergence(queries, batch, self.teacher_bank, with_own_anchor=True)
