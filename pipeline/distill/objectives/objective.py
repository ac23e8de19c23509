"""Base class of the objectives. They need no settings, stores or files: they train on tensors.

Letters: B batch, F the student's feature dimension, D the teacher's, N rows of a split.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from compress_ssl.pipeline.common.device import autocast
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.distill.objectives import options
from compress_ssl.pipeline.networks.heads import build_head
from compress_ssl.pipeline.training.memory_bank import MemoryBank


class Batch(NamedTuple):
    """Images, and the teacher's embeddings of the same views."""

    images: Tensor  # (B, 3, S, S) float32, normalised for the student; whatever the student takes
    teacher_embeddings: Tensor
    """(B, D) float32, without gradient; L2-normalised, unless the objective's ``normalise_teacher`` is False."""
    rows: Tensor | None = None
    """(B,) int64, each image's row in the split; only objectives that keep something per image need them."""
    teacher_patches: Tensor | None = None
    """(B, G * G, K) float32, for a ``PatchObjective`` beside the objective, which does not look at them."""

    def require_rows(self) -> Tensor:
        """Return the rows; raise InputError if there are none."""
        if self.rows is None:
            raise InputError("This objective keeps something per image; pass Batch.rows, the row of each image.")
        return self.rows


class TeacherEmbeddings(NamedTuple):
    """The teacher's embeddings of view 0 of all n good images of a split, on the CPU."""

    embeddings: Tensor  # (n, D) float32, normalised as in ``Batch``
    rows: Tensor  # (n,) int64 rows of the split


class Objective(nn.Module, ABC):
    """A loss between the student's features and the teacher's embeddings, with its own trainable parts.

    Its parameters, the head among them, are trained with the student and dropped at export. Its state is in buffers,
    and so in the checkpoint. A subclass takes keyword parameters: ``teacher_dim``, ``student_dim``, ``precision``, and
    if it needs them ``images`` (N) and ``seed``, which the pipeline supplies; ``head``, if it has one; and its options,
    annotated with ``result_option``, from which settings and ``--help`` derive.

    Args:
        student: Maps images to features (B, F).
        teacher_dim: D.
        student_dim: F; unless given, read off the student's last layer that has a width.
        head: Layers between feature and comparison, by name (``networks.heads``).
        precision: Of the student's forward pass (autocast); the loss is computed in float32.

    Raises:
        InputError: If the student's dimension cannot be inferred, or the comparison needs the teacher's dimension and
            the head does not map to it.
    """

    in_teacher_space: ClassVar[bool] = False
    """True if projected features are compared with the teacher's embeddings directly, and so need dimension D."""
    normalise_teacher: ClassVar[bool] = True
    """True if the teacher's embeddings are L2-normalised before they are passed; else they are the store's."""
    teacher_dropping: float = 0.0
    """Probability of dropping one of several teachers for an image; needs a loss of each image."""
    mixable: bool = True
    """True if targets belong to a view's pixels, not to its image, so that views of two mixed images can be learned."""
    refit_on_resume: ClassVar[bool] = False
    """True if ``fit_teacher`` has to be called when a training is resumed, too."""
    needs_fit: bool = False  # true if ``fit_teacher`` has to be called before the first step
    refill_teacher_bank: bool = True
    """True if the teacher's bank holds the last images: it is then rebuilt from the store, not checkpointed."""
    projection: nn.Module  # the head: maps features (B, F) to (B, ``projected_dim``)
    teacher_bank: MemoryBank | None  # the teacher's embeddings of earlier images
    student_bank: MemoryBank | None  # the key encoder's embeddings of those images
    key_encoder: nn.Module | None  # EMA of the student

    def __init__(
        self,
        student: nn.Module,
        teacher_dim: int,
        student_dim: int | None = None,
        head: options.HeadName = "none",
        precision: options.Precision = "float32",
    ) -> None:
        super().__init__()
        self.teacher_bank = self.student_bank = self.key_encoder = None
        self.precision = precision
        self.student_dim = student_dim or infer_feature_dim(student)
        self.projection, self.projected_dim = build_head(head, self.student_dim, teacher_dim)
        if self.in_teacher_space and self.projected_dim != teacher_dim:
            raise InputError(
                f"Head '{head}' keeps the student's {self.projected_dim} features, which {type(self).__name__} cannot "
                f"compare with the teacher's {teacher_dim}; use head linear or mlp, or the objective compress-2q."
            )

    def forward(self, student: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss (a scalar) of a batch or micro-batch, and scalars to log."""
        loss, logged = self.compute_loss(self.encode(student, batch.images), batch)
        return loss.mean(), logged

    @abstractmethod
    def compute_loss(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the student's features (B, F), a scalar or one of each image (B,), and scalars to log."""

    def after_step(self, student: nn.Module) -> None:
        """Update banks and key encoder; called after each step of the optimizer."""

    def fit_teacher(self, teacher: TeacherEmbeddings) -> None:
        """Fit what depends on all of the teacher's embeddings; called before the first step where ``needs_fit``."""

    def transform_teacher(self, embeddings: Tensor) -> Tensor:
        """Transform teacher embeddings (B, D) before they are compared or enqueued."""
        return embeddings

    def prefill_student_bank(self, images: Tensor) -> None:
        """Enqueue keys of some images before the first step."""

    def encode(self, network: nn.Module, images: Tensor) -> Tensor:
        """Return float32 features (B, F) of images, run in ``precision``; raise InputError if their shape differs."""
        with autocast(images.device, self.precision):
            features: Tensor = network(images)
        if features.shape[1:] != (self.student_dim,):
            raise InputError(
                f"The student returns {tuple(features.shape[1:])} features per image, and ({self.student_dim},) were "
                f"expected; pass student_dim={features.shape[-1]}, and pool them to one vector per image."
            )
        return features.float()


def infer_feature_dim(network: nn.Module) -> int:
    """Return timm's ``num_features``, or the width of the last layer that has one; raise InputError if none has."""
    if isinstance(dim := getattr(network, "num_features", None), int):
        return dim
    names = ("out_features", "num_features", "out_channels", "num_channels", "normalized_shape")
    for layer in reversed(list(network.modules())):
        for name in names:
            if (width := getattr(layer, name, None)) is not None:
                return int(width[-1] if isinstance(width, tuple) else width)
    raise InputError(f"The feature dimension of a {type(network).__name__} cannot be inferred; pass student_dim.")
