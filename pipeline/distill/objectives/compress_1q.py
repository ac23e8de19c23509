"""CompRess-1q: one memory bank, the teacher's (Koohpayegani et al. 2020, section 3, equation 4)."""

from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from compress_ssl.pipeline.common.settings import result_option
from compress_ssl.pipeline.distill.objectives import options
from compress_ssl.pipeline.distill.objectives.objective import Batch, TeacherEmbeddings
from compress_ssl.pipeline.distill.objectives.teacher_bank_objective import TeacherBankObjective
from compress_ssl.pipeline.training.schedule import epoch_order


class CompRess1q(TeacherBankObjective):
    """Match the teacher's similarities to its bank by those of the student, projected into the teacher's space.

    The anchors may also be fixed by ``fit_teacher``: the teacher's embeddings of random images, or centroids of their
    k-means.

    Example:
        >>> student, images = torch.nn.Linear(6, 16), torch.randn(8, 6)
        >>> teacher_embeddings = normalize(torch.randn(8, 32))
        >>> objective = CompRess1q(student, teacher_dim=32, bank_size=64)
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
        seed: int = 0,
        precision: options.Precision = "float32",
        head: options.HeadName = "linear",
        temperature: options.Temperature = 0.04,
        teacher_temperature: options.TeacherTemperature = None,
        bank_size: options.BankSize = 128_000,
        bank_precision: options.BankPrecision = "float32",
        mask_own: options.MaskOwn = False,
        centre: options.Centre = False,
        anchors: Annotated[
            Literal["queue", "random", "k-means"],
            result_option(
                "Content of the memory bank: a queue of the most recent images, or fixed anchors, which are random "
                "images or k-means centroids of view 0"
            ),
        ] = "queue",
    ) -> None:
        super().__init__(student, teacher_dim, student_dim, head, precision)
        self.temperature, self.teacher_temperature = temperature, teacher_temperature
        self.add_teacher_bank(
            teacher_dim, bank_size, bank_precision, mask_own=mask_own, centre=centre, fixed=anchors != "queue"
        )
        self.anchors, self.seed = anchors, seed

    @torch.no_grad()
    def fit_teacher(self, teacher: TeacherEmbeddings) -> None:
        """Take the teacher's mean and the fixed anchors."""
        super().fit_teacher(teacher)
        device, size = self.teacher_bank.rows.device, len(self.teacher_bank.rows)
        if self.anchors == "random":
            order = epoch_order(np.arange(len(teacher.rows)), self.seed, 2**33)  # no training reaches this epoch
            embeddings, rows = (each[order[:size]].to(device) for each in teacher)
            self.teacher_bank.enqueue(self.transform_teacher(embeddings), rows)
        elif self.anchors == "k-means":
            from compress_ssl.pipeline.common.k_means import k_means  # loads faiss

            embeddings = self.transform_teacher(teacher.embeddings.to(device))
            centroids = k_means(embeddings, size, self.seed, device).centroids
            self.teacher_bank.enqueue(normalize(centroids.to(device), dim=1))

    def compute_loss(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the divergence of the two distributions over the teacher's bank."""
        queries = normalize(self.projection(features), dim=1)
        return self.bank_divergence(queries, batch, self.teacher_bank)
