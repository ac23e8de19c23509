"""Base of the objectives with a memory bank of the teacher's embeddings: the bank, and CompRess's loss."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from compress_ssl.pipeline.common.device import TORCH_DTYPES
from compress_ssl.pipeline.distill.objectives.objective import Batch, Objective, TeacherEmbeddings
from compress_ssl.pipeline.training.distributed import gather_rows
from compress_ssl.pipeline.training.memory_bank import MemoryBank


class TeacherBankObjective(Objective):
    """An objective whose anchors are the teacher's embeddings of earlier images.

    Queries are compared with the bank as it was before the batch, which is enqueued after the step.
    """

    teacher_bank: MemoryBank
    teacher_mean: Tensor | None

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

    def after_step(self, student: nn.Module) -> None:
        """Enqueue the staged batch of all ranks."""
        del student
        if self.refill_teacher_bank and self._staged:
            embeddings, rows = zip(*self._staged, strict=True)
            images = gather_rows(torch.cat(rows)) if self.teacher_bank.images is not None else None
            self.teacher_bank.enqueue(gather_rows(torch.cat(embeddings)), images)
        self._staged.clear()

    def stage_for_bank(self, batch: Batch) -> Tensor:
        """Return the transformed teacher embeddings (B, D) of a (micro-)batch; in training, stage them for the bank."""
        teacher = self.transform_teacher(batch.teacher_embeddings)
        if self.training:
            self._staged.append((teacher, batch.rows))
        return teacher

    def own_entries(self, batch: Batch) -> Tensor | None:
        """Return which of the K entries of the bank are of each image itself, (B, K) bool; None if not masked."""
        images = self.teacher_bank.images
        return None if images is None else batch.require_rows()[:, None] == images


def similarity_divergence(
    teacher_similarities: Tensor,
    student_similarities: Tensor,
    temperature: float,
    teacher_temperature: float | None = None,
    masked: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return KL(teacher || student) of the softmaxes over K anchors, averaged over the batch.

    Args:
        teacher_similarities, student_similarities (float tensors of shape (B, K)): Cosine similarities of each image
            with the anchors.
        temperature: Of the softmax.
        teacher_temperature: Of the teacher's softmax; the same unless given.
        masked (bool tensor of shape (B, K)): Anchors masked for an image; at least one stays for each.

    Returns:
        loss (scalar): CompRess (Koohpayegani et al. 2020), equations 1 to 3.
        diagnostics: ``teacher_perplexity``: the exponential of the teacher's entropy, averaged: the effective number of
            anchors.
    """
    masked = torch.zeros((), dtype=torch.bool, device=teacher_similarities.device) if masked is None else masked
    teacher, student = (
        torch.log_softmax((similarities / divisor).masked_fill(masked, -torch.inf), dim=1).masked_fill(masked, 0)
        for similarities, divisor in (
            (teacher_similarities, teacher_temperature or temperature),
            (student_similarities, temperature),
        )
    )
    probability = teacher.exp().masked_fill(masked, 0)
    loss = (probability * (teacher - student)).sum(dim=1).mean()
    perplexity = (-(probability * teacher).sum(dim=1)).exp().mean()
    return loss, {"teacher_perplexity": perplexity}
