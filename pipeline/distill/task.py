"""The training task of one student: network, objective and banks, and its loss on replayed batches."""

import inspect
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.pipeline.distill.multi_teacher import MultiTeacher, PatchLoss
from compress_ssl.pipeline.distill.objectives import OBJECTIVES
from compress_ssl.pipeline.distill.objectives.bingo import check_neighbours
from compress_ssl.pipeline.distill.objectives.cluster_classification import default_clusters
from compress_ssl.pipeline.distill.objectives.objective import Batch, Objective, TeacherEmbeddings
from compress_ssl.pipeline.distill.replay import PREFILL_EPOCHS, Replay, ReplayBatch
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.images.rendering import interpolation_of
from compress_ssl.pipeline.networks.architectures import build_backbone
from compress_ssl.pipeline.networks.feature_map import MapHook, find_map_layer
from compress_ssl.pipeline.networks.network import Network, save_network
from compress_ssl.pipeline.networks.preprocessing import Preprocessing
from compress_ssl.pipeline.training.distributed import broadcast_state, is_rank0
from compress_ssl.pipeline.training.schedule import seed_step
from compress_ssl.pipeline.training.task import ScoreFunction, TrainingTask
from compress_ssl.storage import Split
from compress_ssl.storage.attributes import is_mixed
from compress_ssl.storage.schema import EVALUATION_VIEW

logger = logging.getLogger(__name__)


class DistillTask(TrainingTask[ReplayBatch]):
    """Train one student by its objective, against one teacher or several.

    Args:
        network: The untrained student; it is moved to ``device``.
        teachers: Numbers of the replay's teachers that are the student's, in the order of ``settings.stores``.
        projection_heads: Of each teacher, where the objective has them; else empty.
        score: Live evaluation.
    """

    def __init__(
        self,
        settings: DistillSettings,
        network: Network,
        replay: Replay,
        teachers: Sequence[int],
        projection_heads: Sequence[nn.Module],
        device: torch.device,
        score: ScoreFunction | None,
    ) -> None:
        self.run = settings.run
        self.settings: DistillSettings = settings
        self._network, self._replay, self._score = network, replay, score
        options = fit_options(settings, int(replay.split.samples.good.sum()))
        self._objectives = [
            build_objective(
                settings,
                options,
                network.module,
                student_dim=network.feature_dim,
                teacher_dim=replay.teachers[teacher].feature_dim,
                images=len(replay.split),
                projection_head=projection_head,
            )
            for teacher, projection_head in itertools.zip_longest(teachers, projection_heads)
        ]
        mixed = [view for view in replay.schedule.views if is_mixed(replay.split.views[view])]
        if mixed and not all(objective.mixable for objective in self._objectives):
            raise InputError(
                f"View {mixed[0]} of '{replay.split.path.parent}' mixes two images, and the targets of --objective "
                f"{settings.objective} belong to one; replay a store of another --policy, or take another objective"
                f"{' or --negative-queue' if settings.objective == 'crd' else ''}."
            )
        for objective in self._objectives:
            if objective.teacher_bank is not None and objective.refill_teacher_bank:
                objective.teacher_bank.exclude_from_checkpoint()
        self._teachers = list(zip(self._objectives, teachers, strict=True))
        self._objective: Objective | MultiTeacher = (
            self._objectives[0] if len(teachers) == 1 else MultiTeacher(self._objectives, settings.weights)
        )
        self.modules = nn.ModuleDict({"student": network.module, "objective": self._objective})
        self._patch_loss: PatchLoss | None = None
        if settings.patch_loss is not None:
            layer = find_map_layer(network.module, network.preprocessing.size)
            bases = [replay.patch_basis(teacher) for teacher in teachers]
            self._patch_loss = self.modules["patches"] = PatchLoss(
                settings.patch_loss, layer.channels, bases, settings.weights, settings.seed
            )
        key_encoders = [each.key_encoder for each in self._objectives if each.key_encoder is not None]
        self.prepare_modules(device, [network.module, *key_encoders])
        # After the copies of the student were made, which keep no map.
        self._maps = MapHook(network.module, layer) if self._patch_loss is not None else None
        # The key encoders of all teachers average the same student.
        self._exported = replace(network, module=key_encoders[0]) if settings.export == "key" else network

    @property
    def needs_fit(self) -> bool:
        """True if view 0 of all images is read before the first step."""
        return any(objective.needs_fit for objective in self._objectives)

    def micro_batches(self, batch: ReplayBatch) -> list[tuple[Batch, ...]]:
        """Split a batch into ``accumulation`` equal parts; of each, one batch per teacher."""
        parts = self.settings.accumulation
        images, rows = self._images(batch).chunk(parts), batch.rows.chunk(parts)
        embeddings = [
            as_declared(objective, batch.teacher_embeddings[teacher]).chunk(parts)
            for objective, teacher in self._teachers
        ]
        found = [batch.teacher_patches[teacher] for _, teacher in self._teachers]
        patches = [[None] * len(images) if each is None else each.chunk(parts) for each in found]
        return [
            tuple(
                Batch(images[part], each[part], rows[part], grid[part])
                for each, grid in zip(embeddings, patches, strict=True)
            )
            for part in range(len(images))
        ]

    def loss(self, micro_batch: tuple[Batch, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a micro-batch, with that of patches where they are learnt, and scalars to log."""
        loss: Tensor
        logged: dict[str, Tensor]
        loss, logged = self._objective(self._network.module, *micro_batch)
        if self._patch_loss is None or self._maps is None:
            return loss, logged
        patch_loss, more = self._patch_loss(self._maps.take(), *micro_batch)
        return loss + self.settings.patch_weight * patch_loss, {**logged, **more}

    def before_training(self, epoch: int, step: int) -> Mapping[str, float]:
        """Fit objectives to all embeddings of their teacher, and fill the memory banks that checkpoints omit."""
        is_start = (epoch, step) == (0, 0)
        for objective, teacher in self._teachers:
            if objective.needs_fit and (is_start or objective.refit_on_resume):
                if is_rank0():
                    objective.fit_teacher(self._all_embeddings(objective, teacher))
                broadcast_state(objective)
        if self._patch_loss is not None and is_start:
            for patch_objective, (_, teacher) in zip(self._patch_loss.of_each, self._teachers, strict=True):
                if patch_objective.needs_fit:
                    patch_objective.fit_teacher(self._replay.patch_sample(teacher))
        for objective, teacher in self._teachers:
            self._fill_teacher_bank(objective, teacher, epoch, step)
        student_banks = [each.student_bank for each in self._objectives if each.student_bank is not None]
        if self.settings.prefill and is_start and student_banks:  # with keys of the images in the teachers' banks
            seed_step(self.settings.seed, PREFILL_EPOCHS, 0)
            for batch in self._replay.images(self._replay.to_prefill(len(student_banks[0].rows))):
                images = self._images(batch)
                for objective in self._objectives:
                    objective.prefill_student_bank(images)
        return {}

    def after_step(self) -> None:
        """Enqueue the batch, and update key encoders."""
        self._objective.after_step(self._network.module)

    def evaluate(self) -> Mapping[str, float]:
        """Return the student's scores of live evaluation, if it was asked for."""
        return {} if self._score is None else self._score(self._exported)

    def save_network(self, folder: Path) -> None:
        """Write the student, or its key encoder where that is exported."""
        save_network(folder / MODEL_FILE, self._exported)

    @property
    def out_of_memory_hint(self) -> str:  # type: ignore[override]
        """Options that lower this student's memory."""
        batch_size, parts = self.settings.batch_size, self.settings.accumulation
        most = 0 if self.settings.keep_last else batch_size  # which excludes accumulation
        finer = next((more for more in range(parts + 1, most + 1) if batch_size % more == 0), None)
        hint = f"set --accumulation {finer}, which computes the step in smaller parts, or " if finer else ""
        own = sorted(self.settings.objective_options.keys() & {"bank_size", "negatives"})
        return hint + " or ".join(["lower --batch-size", *(f"--{name.replace('_', '-')}" for name in own)])

    def _images(self, batch: ReplayBatch) -> Tensor:
        preprocessing = self._network.preprocessing
        images = preprocessing.normalize(batch.pixels[preprocessing.size])
        return images.contiguous() if self.settings.memory_format == "contiguous" else images

    def _all_embeddings(self, objective: Objective, teacher: int) -> TeacherEmbeddings:
        embeddings, rows = self._replay.all_embeddings(teacher)
        return TeacherEmbeddings(as_declared(objective, embeddings), rows)

    def _fill_teacher_bank(self, objective: Objective, teacher: int, epoch: int, step: int) -> None:
        """Enqueue what the bank held before a step: the images seen last, and before those the prefilled ones."""
        bank, replay = objective.teacher_bank, self._replay
        if bank is None or not objective.refill_teacher_bank:
            return
        size = len(bank.rows)
        seen = epoch * replay.images_per_epoch + step * replay.batch_size
        segments = replay.before(epoch, step, size)
        if self.settings.prefill:
            prefilled = replay.to_prefill(size)
            if seen < size:
                segments = prefilled + segments
            else:  # all of it has been overwritten, but the position counts it
                bank.skip(sum(len(rows) for _, rows in prefilled))
        bank.skip(max(0, seen - size))
        for embeddings, rows in replay.embeddings(teacher, segments):
            bank.enqueue(objective.transform_teacher(as_declared(objective, embeddings)), rows)


def build_student(settings: DistillSettings, split: Split, view_size: int) -> Network:
    """Return the untrained student, evaluated with the teacher's interpolation, squash and ratio of resize to crop."""
    evaluation, size = split.views[EVALUATION_VIEW], settings.student_size or view_size
    resize = round(int(evaluation["policy"]["resize"]) * size / int(evaluation["size"]))
    backbone = build_backbone(settings.student, settings.seed)
    squash = evaluation["policy"].get("squash", False)
    preprocessing = Preprocessing(size=size, resize=resize, interpolation=interpolation_of(evaluation), squash=squash)
    student = Network(settings.run.name, settings.student, *backbone, preprocessing)
    student.check_size(size)
    return student


def build_objective(
    settings: DistillSettings, options: Mapping[str, Any], student: nn.Module, **of_teacher: Any
) -> Objective:
    """Return the objective of the settings for one teacher, with these options, dimensions and projection head."""
    module, _, class_name = OBJECTIVES[settings.objective].partition(":")
    objective: type[Objective] = getattr(import_module(module), class_name)
    supplied: dict[str, Any] = {**of_teacher, "seed": settings.seed, "precision": settings.precision}
    accepted = inspect.signature(objective).parameters
    torch.manual_seed(settings.seed)  # for each teacher as if it were the only one
    return objective(student, **{name: value for name, value in supplied.items() if name in accepted}, **options)


def fit_options(settings: DistillSettings, images: int) -> dict[str, Any]:
    """Return the objective's options, with sizes that fit the dataset; changes are logged.

    A larger bank would hold earlier views of an image beside the newest.

    Raises:
        InputError: If more clusters or neighbours are asked for than there are images.
    """
    options = settings.objective_options
    for name in ("bank_size", "negative_queue"):
        if (size := options.get(name)) is not None and size > images:
            options[name] = images
            logger.warning(
                "'%s': --%s %d is reduced to the size of the dataset, which has %d images.",
                settings.run.name, name.replace("_", "-"), size, images,
            )  # fmt: skip
    if "neighbours" in options:
        check_neighbours(options["neighbours"], images)
    if "clusters" in options:
        options["clusters"] = options["clusters"] or default_clusters(images)
        if options["clusters"] > images:
            raise InputError(f"--clusters {settings.clusters} is more than the {images} good images; lower it.")
        logger.info("'%s': %d clusters of %d images.", settings.run.name, options["clusters"], images)
    return options


def as_declared(objective: Objective, embeddings: Tensor) -> Tensor:
    """Return a store's embeddings (B, D), L2-normalised if the objective takes them so."""
    return normalize(embeddings, dim=1) if objective.normalise_teacher else embeddings
