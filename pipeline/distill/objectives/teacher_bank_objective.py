"""Base of the objectives with a memory bank of the teacher's embeddings."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from compress_ssl.pipeline.common.device import TORCH_DTYPES
from compress_ssl.pipeline.distill.objectives.bank_divergence import bank_divergence
from compress_ssl.pipeline.distill.objectives.objective import Batch, Objective, TeacherEmbeddings
from compress_ssl.pipeline.training.distributed import gather_rows
from compress_ssl.pipeline.training.memory_bank import MemoryBank


class TeacherBankObjective(Objective):
    """An objective whose anchors are the teacher's embeddings of earlier images.

    Queries are compared with the bank as it was before the batch, which is enqueued after the step.
    """

    teacher_bank: MemoryBank
    teacher_mean: Tensor | None
    temperature: float
    teacher_temperature: float | None

    def add_teacher_bank(
        self, teacher_dim: int, size: int, precision: str, *, mask_own: bool, centre: bool, fixed: bool = False
    ) -> None:
        """Add the bank, and the teacher's mean if it is subtracted.

        Args:
            mask_own: Mask the entries of the query's own image; needs ``Batch.rows``.
            centre: Subtract the mean that ``fit_teacher`` takes of all embeddings; NaN until then.
            fixed: The bank is filled by ``fit_teacher``, and then stays; NaN until then.
        """
        self.needs_fit, self.refill_teacher_bank = centre or fixed, not fixed
        self.teacher_bank = MemoryBank(size, teacher_dim, TORCH_DTYPES[precision], track_images=mask_own)
        if fixed:
            self.teacher_bank.rows.fill_(torch.nan)
        self.register_buffer("teacher_mean", torch.full((teacher_dim,), torch.nan) if centre else None)
        self._staged: list[tuple[Tensor, Tensor | None]] = []

    def transform_teacher(self, embeddings: Tensor) -> Tensor:
        """Return the embeddings, centred and normalised again if asked for."""
        return embeddings if self.teacher_mean is None else normalize(embeddings - self.teacher_mean, dim=1)

    @torch.no_grad()
    def fit_teacher(self, teacher: TeacherEmbeddings) -> None:
        """Take the teacher's mean."""
        if self.teacher_mean is not None:
            self.teacher_mean.copy_(teacher.embeddings.mean(dim=0, dtype=torch.float64))

    def stage(self, embeddings: Tensor, rows: Tensor | None) -> None:
        """In training, stage the teacher embeddings (B, D) of a (micro-)batch for the bank."""
        if self.training:
            self._staged.append((embeddings, rows))

    def after_step(self, student: nn.Module) -> None:
        """Enqueue the staged batch of all ranks."""
        del student
        if self.refill_teacher_bank and self._staged:
            embeddings, rows = zip(*self._staged, strict=True)
            images = gather_rows(torch.cat(rows)) if self.teacher_bank.images is not None else None
            self.teacher_bank.enqueue(gather_rows(torch.cat(embeddings)), images)
        self._staged.clear()

    def bank_divergence(
        self, queries: Tensor, batch: Batch, student_bank: MemoryBank, *, with_own_anchor: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return ``bank_divergence`` of a (micro-)batch; in training, stage its teacher embeddings for the bank.

        Args:
            queries ((B, F)): L2-normalised, compared with the rows of ``student_bank``.
            with_own_anchor: Add each image's own teacher embedding to its anchors.
        """
        teacher, bank = self.transform_teacher(batch.teacher_embeddings), self.teacher_bank
        self.stage(teacher, batch.rows)
        return bank_divergence(
            teacher,
            queries,
            bank.rows,
            student_bank.rows,
            self.temperature,
            self.teacher_temperature,
            masked=None if bank.images is None else batch.require_rows()[:, None] == bank.images,
            own_anchor=teacher if with_own_anchor else None,
        )
