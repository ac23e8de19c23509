"""BINGO: contrast of the student with the teacher's embeddings of the image and of the bag around it.

Xu et al. 2022, section 3; published code haohang96/bingo, main_moco.py, moco/builder.py and clustering.py at
fd6df8e1a300. The bag of an image are its K = 5 nearest neighbours by the teacher's normalised embeddings, found once.
The intra-sample term is InfoNCE with the teacher's embedding of the same view as the positive, the inter-sample term
with that of a member of the bag; both have the weight 1/2, T = 0.2, and the teacher's queue of 65,536 as negatives.

What is ours: the published code draws one member per step and has the teacher embed a random view of it; here the
inter-sample term is the mean over all members, which is its expectation, with the teacher's embeddings of view 0, where
the bags were found as well. It also has the student see the member, and CutMix of both images, which takes other images
than the store's views. The teacher's embedding is the store's, without the projection that the paper's teachers keep.

Letters: B batch, K neighbours, N rows of the split, D the teacher's dimension.
"""

from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.settings import result_option
from compress_ssl.pipeline.distill.objectives import options
from compress_ssl.pipeline.distill.objectives.objective import Batch, TeacherEmbeddings
from compress_ssl.pipeline.distill.objectives.teacher_bank_objective import TeacherBankObjective


class BINGO(TeacherBankObjective):
    """Tell an image's teacher embedding, and those of the bag around it, from the teacher's queue.

    Needs ``Batch.rows``, and ``fit_teacher``, which finds the bags.

    Args:
        images: N, rows of the split.

    Example:
        >>> student, images, rows = nn.Linear(6, 16), torch.randn(64, 6), torch.arange(64)
        >>> teacher_embeddings = normalize(torch.randn(64, 32))
        >>> objective = BINGO(student, teacher_dim=32, images=64, bank_size=64)
        >>> objective.fit_teacher(TeacherEmbeddings(teacher_embeddings, rows))
        >>> optimizer = torch.optim.SGD([*student.parameters(), *objective.parameters()], lr=0.01)
        >>> for part in rows.chunk(3):
        ...     loss, logged = objective(student, Batch(images[part], teacher_embeddings[part], part))
        ...     optimizer.zero_grad(); loss.backward(); optimizer.step(); objective.after_step(student)
    """

    in_teacher_space = True
    mixable = False  # the bag is that of view 0
    refit_on_resume: ClassVar[bool] = True
    bags: Tensor  # (N, K) int64, the rows in the bag of each row; -1 for bad images, and before ``fit_teacher``
    members: Tensor  # (N, D) float16, the teacher's embeddings of view 0; not checkpointed

    def __init__(
        self,
        student: nn.Module,
        *,
        teacher_dim: int,
        images: int,
        student_dim: int | None = None,
        precision: options.Precision = "float32",
        head: options.HeadName = "mlp-2",
        temperature: options.Temperature = 0.2,
        bank_size: options.BankSize = 65_536,
        bank_precision: options.BankPrecision = "float32",
        neighbours: Annotated[int, result_option("Nearest neighbours in the bag of each image", ge=1)] = 5,
    ) -> None:
        super().__init__(student, teacher_dim, student_dim, head, precision)
        self.temperature = temperature
        self.add_teacher_bank(teacher_dim, bank_size, bank_precision, mask_own=False, centre=False)
        self.needs_fit = True
        self.register_buffer("bags", torch.full((images, neighbours), -1))
        unfitted = torch.full((images, teacher_dim), torch.nan, dtype=torch.float16)
        self.register_buffer("members", unfitted, persistent=False)

    @torch.no_grad()
    def fit_teacher(self, teacher: TeacherEmbeddings) -> None:
        """Keep the teacher's embeddings, and find the bags unless a checkpoint had them."""
        device, neighbours = self.bags.device, self.bags.shape[1]
        check_neighbours(neighbours, len(teacher.rows))
        rows = teacher.rows.to(device)
        self.members[rows] = teacher.embeddings.to(device, torch.float16)
        if (self.bags[rows] < 0).any():
            from compress_ssl.pipeline.common.neighbours import nearest_others  # loads faiss

            found = nearest_others(teacher.embeddings, neighbours, device)
            self.bags[rows] = rows[found.to(device)]

    def compute_loss(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return half the intra-sample and half the inter-sample loss, each averaged over the batch."""
        rows, teacher = batch.require_rows(), batch.teacher_embeddings
        queries = normalize(self.projection(features), dim=1)
        members = normalize(self.members[self.bags[rows]].float(), dim=2)  # (B, K, D)
        positives = torch.cat([teacher[:, None], members], dim=1)
        logits = torch.einsum("bd,bkd->bk", queries, positives) / self.temperature  # (B, 1 + K)
        negatives = (self.teacher_bank.similarities(queries) / self.temperature).logsumexp(dim=1, keepdim=True)
        losses = (torch.logaddexp(logits, negatives) - logits).mean(dim=0)
        intra, inter = losses[0], losses[1:].mean()
        self.stage(teacher, rows)
        return (intra + inter) / 2, {"intra_loss": intra.detach(), "inter_loss": inter.detach()}


def check_neighbours(neighbours: int, images: int) -> None:
    """Raise ``InputError`` if images have fewer others than neighbours are asked for."""
    if images <= neighbours:
        raise InputError(f"--neighbours {neighbours} needs more images than that, and there are {images}; lower it.")
