"""CRD without labels: noise-contrastive estimation of which teacher's embedding belongs to which student's.

Tian et al. 2020, section 3.1 (the loss is equation 18), without the terms that need labels; published code
HobbitLong/RepDistiller, crd/criterion.py at 1fb2343fb5a6 and crd/memory.py at 97c4c00b511b. Both sides' features, as
the networks return them, are embedded by a learned linear layer in 128 dimensions, L2-normalised. Both sides'
embeddings of every image are stored, and updated with a momentum whenever the image is seen; an image's positive is its
own row, its K negatives are rows drawn uniformly, with replacement. Scores exp(similarity / T) are divided by constants
Z, fixed on the first batch.

With a negative queue the rows are the last M images' embeddings instead, and the positive is the other side's
embedding. Every rank draws the negatives of its own images.

Letters: B batch, E = 128, K negatives, M stored rows.
"""

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.settings import result_option
from compress_ssl.pipeline.distill.objectives import options
from compress_ssl.pipeline.distill.objectives.objective import Batch, Objective
from compress_ssl.pipeline.training.distributed import all_reduce_mean, gather_rows
from compress_ssl.pipeline.training.memory_bank import MemoryBank

EMBEDDING_DIM = 128  # E
EPSILON = 1e-7  # of the published code's divisions


class CRD(Objective):
    """Tell each image's pair of embeddings from pairs with other images' embeddings, once from each side.

    Needs ``Batch.rows`` and ``images``, unless there is a negative queue.

    Args:
        images: N, rows of the split.

    Example:
        >>> student, images = nn.Linear(6, 16), torch.randn(8, 6)
        >>> teacher_embeddings = torch.randn(8, 32)
        >>> objective = CRD(student, teacher_dim=32, negatives=16, negative_queue=64)
        >>> optimizer = torch.optim.SGD([*student.parameters(), *objective.parameters()], lr=0.01)
        >>> for _ in range(3):
        ...     loss, logged = objective(student, Batch(images, teacher_embeddings))
        ...     optimizer.zero_grad(); loss.backward(); optimizer.step(); objective.after_step(student)
    """

    normalise_teacher = False
    constants: Tensor  # (2,) Z of student and teacher; zero before the first batch

    def __init__(
        self,
        student: nn.Module,
        *,
        teacher_dim: int,
        images: int | None = None,
        student_dim: int | None = None,
        precision: options.Precision = "float32",
        temperature: options.Temperature = 0.07,
        negatives: Annotated[int, result_option("Negatives drawn for each image", ge=1)] = 16_384,
        memory_momentum: Annotated[
            float, result_option("Momentum of the stored embeddings of every image", ge=0, lt=1)
        ] = 0.5,
        negative_queue: Annotated[
            int | None,
            result_option("Draw negatives from a queue of the N most recent images, by default from all images", ge=1),
        ] = None,
    ) -> None:
        super().__init__(student, teacher_dim, student_dim, "none", precision)
        if (count := negative_queue or images) is None:
            raise InputError("CRD stores embeddings of every image; pass images, their number, or a negative_queue.")
        self.student_embedding = nn.Linear(self.student_dim, EMBEDDING_DIM)
        self.teacher_embedding = nn.Linear(teacher_dim, EMBEDDING_DIM)
        self.is_queue = self.mixable = negative_queue is not None  # an image's own embeddings are averaged otherwise
        self.student_memory, self.teacher_memory = (MemoryBank(count, EMBEDDING_DIM) for _ in range(2))
        self.register_buffer("constants", torch.zeros(2))
        self.negatives, self.temperature, self.momentum = negatives, temperature, memory_momentum
        self._has_constants = False
        self._staged: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def compute_loss(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of both sides' losses, averaged over the batch."""
        rows = None if self.is_queue else batch.require_rows()
        ours = normalize(self.student_embedding(features), dim=1)
        theirs = normalize(self.teacher_embedding(batch.teacher_embeddings), dim=1)
        count = len(self.teacher_memory.rows)
        drawn = torch.randint(count, (len(ours), self.negatives), device=ours.device)
        scores = (
            self._scores(ours, theirs, self.teacher_memory, rows, drawn),
            self._scores(theirs, ours, self.student_memory, rows, drawn),
        )
        self._has_constants = self._has_constants or bool(self.constants.any())  # a GPU is waited for until there are
        if not self._has_constants:  # the mean score of the first batch, times M
            means = all_reduce_mean({str(side): each.detach().mean() * count for side, each in enumerate(scores)})
            self.constants.copy_(torch.stack(list(means.values())))
        noise = self.negatives / count
        losses = [_nce(each / z, noise) for each, z in zip(scores, self.constants, strict=True)]
        if self.training:
            self._staged.append((ours.detach(), theirs.detach(), rows))
        return sum(losses, torch.zeros((), device=ours.device)), {}

    @torch.no_grad()
    def after_step(self, student: nn.Module) -> None:
        """Store the embeddings of the batch of all ranks."""
        del student
        if not self._staged:
            return
        *embeddings, rows = zip(*self._staged, strict=True)
        images = None if self.is_queue else gather_rows(torch.cat(rows))
        for memory, parts in zip((self.student_memory, self.teacher_memory), embeddings, strict=True):
            newest = gather_rows(torch.cat(parts))
            if images is None:
                memory.enqueue(newest)
            else:
                moved = self.momentum * memory.rows[images] + (1 - self.momentum) * newest
                memory.rows[images] = normalize(moved, dim=1)
        self._staged.clear()

    def _scores(
        self, anchors: Tensor, others: Tensor, memory: MemoryBank, rows: Tensor | None, drawn: Tensor
    ) -> Tensor:
        """Return exp(similarity / T) of anchors with their positive, first, and with the negatives: (B, 1 + K)."""
        positives = others.detach() if rows is None else memory.rows[rows].clone()
        similarities = [(anchors * positives).sum(dim=1, keepdim=True), memory.similarities(anchors).gather(1, drawn)]
        return (torch.cat(similarities, dim=1) / self.temperature).exp()


def _nce(scores: Tensor, noise: float) -> Tensor:
    """Return equation 18 of scores (B, 1 + K) and the negatives' expected number K / M: the mean over the batch."""
    positive = (scores[:, 0] / (scores[:, 0] + noise + EPSILON)).log()
    negative = (noise / (scores[:, 1:] + noise + EPSILON)).log().sum(dim=1)
    return -(positive + negative).mean()
