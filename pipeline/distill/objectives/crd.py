"""CRD without labels: noise-contrastive estimation of which teacher's embedding belongs to which student's.

Tian et al. 2020, section 3.1 (the loss is equation 18), without the terms that need labels; published code
HobbitLong/RepDistiller, crd/criterion.py at 1fb2343fb5a6 and crd/memory.py at 97c4c00b511b. Both sides are embedded by a
learned linear layer to 128 numbers, L2-normalised. Of every image both sides' embeddings are kept, moved by a momentum
whenever it is seen; an image's positive is its own row, its K negatives are rows drawn uniformly, with replacement.
Scores exp(similarity / T) are divided by constants Z, fixed on the first batch.

With a negative queue the rows are the last M images' embeddings instead, and the positive is the other side's embedding.
Every process draws the negatives of its own images.

Letters: B batch, E = 128, K negatives, M rows that are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import normalize

from compress_ssl.pipeline.distill.objectives.objective import Batch, Dims, Objective
from compress_ssl.pipeline.training.distributed import all_reduce_mean, gather_rows
from compress_ssl.pipeline.training.memory_bank import MemoryBank

if TYPE_CHECKING:
    from torch import Tensor

    from compress_ssl.pipeline.distill.settings import DistillSettings

EMBEDDING_DIM = 128
"""E."""
EPSILON = 1e-7
"""Of the published code's divisions."""


class CRD(Objective):
    """Tell the image's own pair of embeddings from pairs with other images', once for each side."""

    constants: Tensor
    """(2,) Z of student and teacher; zero before the first batch."""

    def __init__(self, student: nn.Module, dims: Dims, settings: DistillSettings) -> None:
        super().__init__(student, dims, settings)
        self.student_embedding = nn.Linear(dims.student, EMBEDDING_DIM)
        self.teacher_embedding = nn.Linear(dims.teacher, EMBEDDING_DIM)
        self.is_queue = settings.negative_queue is not None
        count = settings.negative_queue or dims.images
        self.student_memory, self.teacher_memory = (MemoryBank(count, EMBEDDING_DIM) for _ in range(2))
        self.register_buffer("constants", torch.zeros(2))
        self.negatives, self.temperature, self.momentum = (
            settings.negatives,
            settings.temperature,
            settings.memory_momentum,
        )
        self._entering: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, student: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of both sides' losses, averaged over the batch."""
        ours = normalize(self.student_embedding(self.projected(student, batch.images)), dim=1)
        theirs = normalize(self.teacher_embedding(batch.teacher), dim=1)
        drawn = torch.randint(len(self.teacher_memory.rows), (len(ours), self.negatives), device=ours.device)
        scores = (
            self._scores(ours, theirs, self.teacher_memory, batch.rows, drawn),
            self._scores(theirs, ours, self.student_memory, batch.rows, drawn),
        )
        if not self.constants.any():
            self._fix_constants(scores)
        noise = self.negatives / len(self.teacher_memory.rows)
        losses = [_nce(each / z, noise) for each, z in zip(scores, self.constants, strict=True)]
        self._entering.append((ours.detach(), theirs.detach(), batch.rows))
        return sum(losses, torch.zeros((), device=ours.device)), {}

    @torch.no_grad()
    def after_step(self, student: nn.Module) -> None:
        """Keep the embeddings of the batch, of all processes."""
        del student
        ours, theirs, rows = (gather_rows(torch.cat(parts)) for parts in zip(*self._entering, strict=True))
        for memory, embeddings in ((self.student_memory, ours), (self.teacher_memory, theirs)):
            if self.is_queue:
                memory.enqueue(embeddings)
            else:
                moved = self.momentum * memory.rows[rows] + (1 - self.momentum) * embeddings
                memory.rows[rows] = normalize(moved, dim=1)
        self._entering.clear()

    def _scores(self, anchors: Tensor, others: Tensor, memory: MemoryBank, rows: Tensor, drawn: Tensor) -> Tensor:
        """exp(similarity / T) of anchors with their positive, first, and with the negatives: (B, 1 + K)."""
        positives = others.detach() if self.is_queue else memory.rows[rows].clone()
        similarities = [(anchors * positives).sum(dim=1, keepdim=True), memory.similarities(anchors).gather(1, drawn)]
        return (torch.cat(similarities, dim=1) / self.temperature).exp()

    @torch.no_grad()
    def _fix_constants(self, scores: tuple[Tensor, Tensor]) -> None:
        """Z: the mean score of a batch times M."""
        count = len(self.teacher_memory.rows)
        found = all_reduce_mean({str(number): each.mean() * count for number, each in enumerate(scores)})
        self.constants.copy_(torch.stack(list(found.values())))


def _nce(scores: Tensor, noise: float) -> Tensor:
    """Equation 18 of scores (B, 1 + K) and the negatives' expected number K / M: the mean over the batch."""
    positive = (scores[:, 0] / (scores[:, 0] + noise + EPSILON)).log()
    negative = (noise / (scores[:, 1:] + noise + EPSILON)).log().sum(dim=1)
    return -(positive + negative).mean()
