"""One student: the network, its objective and banks, and how it is trained on the stream of replayed images."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.pipeline.distill.fill_banks import fill_banks
from compress_ssl.pipeline.distill.multi_teacher import MultiTeacher
from compress_ssl.pipeline.distill.objective_options import OPTIONS
from compress_ssl.pipeline.distill.objectives import OBJECTIVES
from compress_ssl.pipeline.distill.objectives.objective import Batch, Dims
from compress_ssl.pipeline.distill.replay import Replayed
from compress_ssl.pipeline.images.rendering import interpolation_of
from compress_ssl.pipeline.networks.architectures import build_backbone
from compress_ssl.pipeline.networks.network import Network, save_network
from compress_ssl.pipeline.networks.preprocessing import Preprocessing
from compress_ssl.pipeline.training.distributed import (
    check_batch_divides,
    convert_sync_batchnorm,
    local_batch_size,
    world_size,
)
from compress_ssl.pipeline.training.task import TrainingTask
from compress_ssl.storage.schema import EVALUATION_VIEW

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from compress_ssl.pipeline.distill.objectives.objective import Objective
    from compress_ssl.pipeline.distill.replay import Replay
    from compress_ssl.pipeline.distill.settings import DistillSettings
    from compress_ssl.pipeline.training.live import ScoreFunction
    from compress_ssl.storage import Split

logger = logging.getLogger(__name__)

OF_MEMORY = {"bank_size": "--bank-size", "negatives": "--negatives"}

CLUSTERS, IMAGES_A_CLUSTER = 16_000, 39
"""Published of ImageNet, and the least that faiss finds enough."""


def student_size(settings: DistillSettings, size: int) -> int:
    """Side of what a student sees, in pixels, of views of ``size`` pixels.

    Raises
    ------
    InputError
        If it is to be larger than the views.
    """
    if settings.student_size is not None and settings.student_size > size:
        raise InputError(
            f"--student-size {settings.student_size} is larger than the {size} pixels of the views in "
            f"'{settings.store}'; a student sees at most what the teacher saw."
        )
    return settings.student_size or size


def check_parts(settings: DistillSettings) -> None:
    """Check that the processes and the parts of a step divide its batch.

    Raises
    ------
    InputError
        If they do not, or leave an MLP head, which has batch norm, one image at a time.
    """
    check_batch_divides(settings.batch_size, settings.accumulation)
    if settings.head_or_own == "mlp" and local_batch_size(settings.batch_size) == settings.accumulation:
        raise InputError(
            f"--head mlp has batch norm, which needs two images at once in each of the {world_size()} processes; raise "
            "--batch-size or lower --accumulation."
        )


def build_student(settings: DistillSettings, split: Split, size: int) -> Network:
    """The untrained student; its evaluation view keeps the teacher's interpolation and proportion of resize and crop."""
    evaluation = split.views[EVALUATION_VIEW]
    resize = round(int(evaluation["policy"]["resize"]) * size / int(evaluation["size"]))
    backbone = build_backbone(settings.student, settings.seed)
    preprocessing = Preprocessing(size=size, resize=resize, interpolation=interpolation_of(evaluation))
    student = Network(settings.run.name, settings.student, *backbone, preprocessing)
    student.check_size(size)
    return student


def _fitted(settings: DistillSettings, images: int) -> DistillSettings:
    """The settings with sizes that fit the data set, with a word for each that does not.

    In a bank that is larger, earlier views of an image would stand beside the newest.

    Raises
    ------
    InputError
        If more clusters are asked for than there are images.
    """
    sizes: dict[str, int] = {}
    if settings.objective == "cc":
        sizes["clusters"] = settings.clusters or max(2, min(CLUSTERS, images // IMAGES_A_CLUSTER))
        if sizes["clusters"] > images:
            raise InputError(f"--clusters {settings.clusters} is more than the {images} good images; ask for fewer.")
        logger.info("'%s': %d clusters of %d images.", settings.run.name, sizes["clusters"], images)
    for option in OPTIONS[settings.objective] & {"bank_size", "negative_queue"}:
        size = getattr(settings, option)
        if size is not None and size > images:
            sizes[option] = images
            logger.warning(
                "'%s': %s %d is made as small as the data set, which has %d images.",
                settings.run.name, f"--{option.replace('_', '-')}", size, images,
            )  # fmt: skip
    return settings.model_copy(update=sizes)


def _pieces(batch: Batch, count: int) -> list[Batch]:
    """A batch in equal parts."""
    return [Batch(*piece) for piece in zip(*(field.chunk(count) for field in batch), strict=True)]


class DistillTask(TrainingTask[Replayed]):
    """Train one student by its objective, against one teacher or several.

    Parameters
    ----------
    network : Network
        The untrained student; it is moved to ``device``.
    teachers : sequence of int
        Numbers of the replay's teachers that are the student's, in the order of ``settings.stores``.
    score : callable, optional
        Live evaluation.
    """

    def __init__(
        self,
        settings: DistillSettings,
        network: Network,
        replay: Replay,
        teachers: Sequence[int],
        device: torch.device,
        score: ScoreFunction | None,
    ) -> None:
        self.run = settings.run
        self.settings: DistillSettings = _fitted(settings, int(replay.split.samples.good.sum()))
        self._network, self._replay, self._teachers, self._score = network, replay, teachers, score
        self._objectives = [self._build_objective(teacher) for teacher in teachers]
        self._objective: Objective | MultiTeacher = (
            self._objectives[0] if len(teachers) == 1 else MultiTeacher(self._objectives, settings.weights)
        )
        self.modules = nn.ModuleDict({"student": network.module, "objective": self._objective})
        if settings.sync_bn:
            convert_sync_batchnorm(self.modules, device)
        self.modules.train().to(device)
        if settings.memory_format == "channels_last":
            self.modules.to(memory_format=torch.channels_last)
        if settings.compile:
            for module in filter(None, (network.module, *(each.key_encoder for each in self._objectives))):
                module.compile()
        self._exported = network
        if settings.export == "key":
            (key_encoder, *_) = (each.key_encoder for each in self._objectives)  # all average the same student
            assert key_encoder is not None
            self._exported = replace(network, module=key_encoder)

    def _build_objective(self, teacher: int) -> Objective:
        torch.manual_seed(self.settings.seed)  # each as if it were the only one
        dims = Dims(self._network.feature_dim, self._replay.teachers[teacher].feature_dim, len(self._replay.split))
        return OBJECTIVES[self.settings.objective](self._network.module, dims, self.settings)

    def batches(self, replayed: Replayed) -> list[Batch]:
        """Return the batch that each objective sees of the replayed images."""
        images = self._network.preprocessing.normalize(replayed.pixels[self._network.preprocessing.size])
        if self.settings.memory_format == "contiguous":
            images = images.contiguous()
        return [
            Batch(images, objective.transform_teacher(replayed.teachers[teacher]), replayed.rows)
            for objective, teacher in zip(self._objectives, self._teachers, strict=True)
        ]

    def micro_batches(self, batch: Replayed) -> list[tuple[Batch, ...]]:
        """Split each objective's batch into ``accumulation`` equal parts."""
        pieces = (_pieces(each, self.settings.accumulation) for each in self.batches(batch))
        return list(zip(*pieces, strict=True))

    def loss(self, part: tuple[Batch, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the objective's loss of one part."""
        loss: tuple[Tensor, dict[str, Tensor]] = self._objective(self._network.module, *part)
        return loss

    def before_training(self, epoch: int, step: int) -> None:
        """Fit what objectives take from all embeddings, and fill their memory banks."""
        fill_banks(self._objectives, self._teachers, self.settings, self._replay, epoch, step, self.batches)

    def after_step(self) -> None:
        """Enqueue the batch and update key encoders."""
        self._objective.after_step(self._network.module)

    def evaluate(self) -> Mapping[str, float]:
        """Score the student by live evaluation, if it was asked for."""
        return {} if self._score is None else self._score(self._exported)

    def save_network(self, folder: Path) -> None:
        """Write the student, or its key encoder where that is exported."""
        save_network(folder / MODEL_FILE, self._exported)

    @property
    def out_of_memory_hint(self) -> str:  # type: ignore[override]
        """Options that lower this student's memory."""
        batch_size, parts = self.settings.batch_size, self.settings.accumulation
        finer = next((more for more in range(parts + 1, batch_size + 1) if batch_size % more == 0), None)
        hint = f"set --accumulation {finer}, which computes the step in smaller parts, or " if finer else ""
        others = [name for option, name in OF_MEMORY.items() if option in OPTIONS[self.settings.objective]]
        return hint + " or ".join(["lower --batch-size", *others])
