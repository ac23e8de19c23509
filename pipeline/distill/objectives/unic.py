"""UNIC: the student's projection is regressed to the teacher's standardised embedding, one teacher or several.

Sariyildiz et al. 2024 (UNIC, ECCV); published code naver/unic at 02269dbfa293: the loss in modeling/losses.py, the head
in modeling/unic.py, the mean over teachers in modeling/teacher_dropping.py. DUNE (Sariyildiz et al. 2025; naver/dune at
afad549fa695) has the same loss. UNIC trains the student's class token and patches; here it is the pooled feature, and
there are no projectors of intermediate layers ("ladder"). Teachers are standardised by statistics of all images, not by
a moving average (``standardisation.py``).
"""

from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, smooth_l1_loss

from compress_ssl.pipeline.common.settings import result_option
from compress_ssl.pipeline.distill.objectives import options
from compress_ssl.pipeline.distill.objectives.hadamard import core_order
from compress_ssl.pipeline.distill.objectives.objective import Batch, Objective, TeacherEmbeddings
from compress_ssl.pipeline.distill.objectives.standardisation import fit_mean_std, fit_phi_s


class UNIC(Objective):
    """Minimise half of the missing cosine plus half of the smooth L1 distance to the standardised embedding.

    Per image 0.5 (1 - cos) + 0.5 times the smooth L1 distance (beta = 1), averaged over dimensions. The teacher's
    embeddings are taken as they are in the store, not L2-normalised.

    Example:
        >>> student, images = nn.Linear(6, 16), torch.randn(8, 6)
        >>> teacher_embeddings = 5 * torch.randn(8, 32) + 1
        >>> objective = UNIC(student, teacher_dim=32, standardisation="phi-s")
        >>> objective.fit_teacher(TeacherEmbeddings(teacher_embeddings, torch.arange(8)))
        >>> optimizer = torch.optim.AdamW([*student.parameters(), *objective.parameters()], lr=0.001)
        >>> for _ in range(3):
        ...     loss, logged = objective(student, Batch(images, teacher_embeddings))
        ...     optimizer.zero_grad(); loss.backward(); optimizer.step(); objective.after_step(student)
    """

    in_teacher_space = True
    normalise_teacher = False
    teacher_mean: Tensor | None  # (D,); NaN until ``fit_teacher``
    teacher_scale: Tensor | None  # (D,) or (D, D), of the standardisation

    def __init__(
        self,
        student: nn.Module,
        *,
        teacher_dim: int,
        student_dim: int | None = None,
        precision: options.Precision = "float32",
        head: options.HeadName = "mlp-gelu",
        standardisation: Annotated[
            Literal["none", "mean-std", "phi-s"],
            result_option(
                "Standardise the teacher's embeddings by statistics of view 0: each dimension by itself, or after the "
                "rotation that gives all dimensions the same variance (PHI-S)"
            ),
        ] = "mean-std",
        teacher_dropping: Annotated[
            float,
            result_option(
                "With --also-store: probability of dropping a teacher for an image, unless it has the largest loss of "
                "the teachers",
                ge=0,
                le=1,
            ),
        ] = 0.5,
    ) -> None:
        super().__init__(student, teacher_dim, student_dim, head, precision)
        if standardisation == "phi-s":
            core_order(teacher_dim)  # refused before training begins
        self.standardisation, self.teacher_dropping = standardisation, teacher_dropping
        self.needs_fit = standardisation != "none"
        scale_shape = (teacher_dim,) * (2 if standardisation == "phi-s" else 1)
        self.register_buffer("teacher_mean", torch.full((teacher_dim,), torch.nan) if self.needs_fit else None)
        self.register_buffer("teacher_scale", torch.full(scale_shape, torch.nan) if self.needs_fit else None)

    @torch.no_grad()
    def fit_teacher(self, teacher: TeacherEmbeddings) -> None:
        """Take the statistics of the standardisation."""
        if self.teacher_mean is not None and self.teacher_scale is not None:
            fit = fit_phi_s if self.standardisation == "phi-s" else fit_mean_std
            mean, scale = fit(teacher.embeddings, self.teacher_mean.device)
            self.teacher_mean.copy_(mean)
            self.teacher_scale.copy_(scale)

    def transform_teacher(self, embeddings: Tensor) -> Tensor:
        """Return the standardised embeddings (B, D)."""
        if self.teacher_mean is None or self.teacher_scale is None:
            return embeddings
        centred = embeddings - self.teacher_mean
        return centred * self.teacher_scale if self.teacher_scale.ndim == 1 else centred @ self.teacher_scale

    def compute_loss(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of each image (B,)."""
        projected, teacher = self.projection(features), self.transform_teacher(batch.teacher_embeddings)
        cosine = cosine_similarity(projected, teacher, dim=1)
        distance = smooth_l1_loss(projected, teacher, reduction="none").mean(dim=1)
        return 0.5 * (1 - cosine) + 0.5 * distance, {"cosine": cosine.detach().mean()}
