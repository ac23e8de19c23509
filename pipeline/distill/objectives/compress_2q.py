"""CompRess-2q: two memory banks, the teacher's and the student's (Koohpayegani et al. 2020, section 3, equation 3)."""

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from compress_ssl.pipeline.common.device import TORCH_DTYPES
from compress_ssl.pipeline.common.settings import result_option
from compress_ssl.pipeline.distill.objectives import options
from compress_ssl.pipeline.distill.objectives.objective import Batch
from compress_ssl.pipeline.distill.objectives.teacher_bank_objective import TeacherBankObjective
from compress_ssl.pipeline.training.distributed import gather_rows
from compress_ssl.pipeline.training.ema import ema_copy, ema_update
from compress_ssl.pipeline.training.memory_bank import MemoryBank


class CompRess2q(TeacherBankObjective):
    """Match the teacher's similarities to its bank by the student's similarities to a bank of its own.

    The student's bank is filled by a key encoder: the exponential moving average of the student and its head, with
    batch norm in training mode. Queries are compared with the banks as they were before the batch, which is enqueued
    in both after the step.

    Example:
        >>> student, images = nn.Linear(6, 16), torch.randn(8, 6)
        >>> teacher_embeddings = normalize(torch.randn(8, 32))
        >>> objective = CompRess2q(student, teacher_dim=32, bank_size=64, key_momentum=0.9)
        >>> optimizer = torch.optim.SGD([*student.parameters(), *objective.parameters()], lr=0.01)
        >>> for _ in range(3):
        ...     loss, logged = objective(student, Batch(images, teacher_embeddings))
        ...     optimizer.zero_grad(); loss.backward(); optimizer.step(); objective.after_step(student)
    """

    key_encoder: nn.Module
    student_bank: MemoryBank

    def __init__(
        self,
        student: nn.Module,
        *,
        teacher_dim: int,
        student_dim: int | None = None,
        precision: options.Precision = "float32",
        head: options.HeadName = "none",
        temperature: options.Temperature = 0.04,
        teacher_temperature: options.TeacherTemperature = None,
        bank_size: options.BankSize = 128_000,
        bank_precision: options.BankPrecision = "float32",
        mask_own: options.MaskOwn = False,
        centre: options.Centre = False,
        key_momentum: Annotated[
            float, result_option("EMA momentum of the key encoder; lower it for few steps", ge=0, le=1)
        ] = 0.999,
    ) -> None:
        super().__init__(student, teacher_dim, student_dim, head, precision)
        self.temperature, self.teacher_temperature = temperature, teacher_temperature
        self.add_teacher_bank(teacher_dim, bank_size, bank_precision, mask_own=mask_own, centre=centre)
        self.key_encoder = ema_copy(student)
        self.key_projection = ema_copy(self.projection)
        self.student_bank = MemoryBank(bank_size, self.projected_dim, TORCH_DTYPES[bank_precision])
        self.momentum = key_momentum
        self._staged_keys: list[Tensor] = []

    def compute_loss(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the divergence of the two distributions over the banks."""
        queries = normalize(self.projection(features), dim=1)
        if self.training:
            self._staged_keys.append(self._keys(batch.images))
        return self.bank_divergence(queries, batch, self.student_bank)

    @torch.no_grad()
    def after_step(self, student: nn.Module) -> None:
        """Enqueue the batch of all ranks in both banks, and update the key encoder's parameters (not its buffers)."""
        super().after_step(student)
        if not self._staged_keys:
            return
        self.student_bank.enqueue(gather_rows(torch.cat(self._staged_keys)))
        self._staged_keys.clear()
        ema_update(self.key_encoder, student, self.momentum)
        ema_update(self.key_projection, self.projection, self.momentum)

    def prefill_student_bank(self, images: Tensor) -> None:
        """Enqueue the key encoder's embeddings of some images."""
        self.student_bank.enqueue(gather_rows(self._keys(images)))

    @torch.no_grad()
    def _keys(self, images: Tensor) -> Tensor:
        return normalize(self.key_projection(self.encode(self.key_encoder, images)), dim=1)
