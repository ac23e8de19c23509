"""LightlyTrain's global loss: the teacher's similarities to a queue that the batch has already entered.

lightly-train 0.18.0, ``_methods/distillation/distillation.py`` and ``distillation_loss.py`` (``distillationv1``), which
is also the global one of the two losses of ``distillationv3``: the divergence at T = 0.07 on both sides, a queue of
8,192, one linear layer whose weights begin truncated normal with a standard deviation of 0.02. An image's own embedding
is thus among its anchors, as in SEED, and so is the rest of its batch. Its queue is one per GPU; here it is over all
ranks. Optimizer, augmentation and mixup of LightlyTrain are in the recipe ``lightlytrain``.
"""

from torch import Tensor, nn
from torch.nn.functional import normalize

from compress_ssl.pipeline.distill.objectives import options
from compress_ssl.pipeline.distill.objectives.bank_divergence import bank_divergence
from compress_ssl.pipeline.distill.objectives.objective import Batch
from compress_ssl.pipeline.distill.objectives.teacher_bank_objective import TeacherBankObjective
from compress_ssl.pipeline.training.distributed import gather_rows


class Lightly(TeacherBankObjective):
    """Match the teacher's similarities to its queue, in which the batch is the newest.

    With gradient accumulation the newest are the micro-batch. The queue begins with zeros, as published.

    Example:
        >>> student, images = nn.Linear(6, 16), torch.randn(8, 6)
        >>> teacher_embeddings = normalize(torch.randn(8, 32))
        >>> objective = Lightly(student, teacher_dim=32, bank_size=64)
        >>> optimizer = torch.optim.AdamW([*student.parameters(), *objective.parameters()], lr=0.0005)
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
        temperature: options.Temperature = 0.07,
        bank_size: options.BankSize = 8192,
        bank_precision: options.BankPrecision = "float32",
    ) -> None:
        super().__init__(student, teacher_dim, student_dim, "linear", precision)
        assert isinstance(self.projection, nn.Linear)
        nn.init.trunc_normal_(self.projection.weight, std=0.02)
        self.temperature = temperature
        self.add_teacher_bank(teacher_dim, bank_size, bank_precision, mask_own=False, centre=False)
        self.teacher_bank.rows.zero_()

    def compute_loss(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the divergence of the two distributions over the batch and what stays of the queue beside it."""
        queries, teacher = normalize(self.projection(features), dim=1), batch.teacher_embeddings
        self.stage(teacher, batch.rows)
        anchors = self.teacher_bank.rows_after(gather_rows(teacher))
        return bank_divergence(teacher, queries, anchors, anchors, self.temperature)
