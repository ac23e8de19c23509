"""One student: the network, its objective and banks, and how it is trained on the stream of replayed images."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.distill.objectives import OBJECTIVES
from pipeline.distill.objectives.objective import Batch, Objective
from pipeline.distill.replay import PREFILL_EPOCHS, Replay, Replayed
from pipeline.errors import InputError
from pipeline.images.rendering import interpolation_of
from pipeline.networks.architectures import build_backbone
from pipeline.networks.network import MODEL_FILE, Network, save_network
from pipeline.networks.preprocessing import Preprocessing
from pipeline.training.distributed import check_batch, processes, share, synchronise_batch_norm
from pipeline.training.loop import Training
from pipeline.training.schedule import seed_step
from storage.schema import EVALUATION_VIEW

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from pipeline.distill.settings import DistillSettings
    from pipeline.training.live import Score
    from storage import Split

logger = logging.getLogger(__name__)


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
    check_batch(settings.batch_size, settings.accumulation)
    if settings.head == "mlp" and share(settings.batch_size) == settings.accumulation:
        raise InputError(
            f"--head mlp has batch norm, which needs two images at once in each of the {processes()} processes; raise "
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


def student_training(
    settings: DistillSettings,
    network: Network,
    replay: Replay,
    device: torch.device,
    score: Score | None,
) -> Training[Replayed]:
    """Make one student's training: its objective, its banks, and what to do with a batch of the stream.

    Parameters
    ----------
    network : Network
        The untrained student; it is moved to ``device``.
    score : callable, optional
        Live evaluation.
    """
    torch.manual_seed(settings.seed)
    teacher_dim = replay.split.feature_dim
    objective = OBJECTIVES[settings.objective](network.module, network.feature_dim, teacher_dim, settings)
    modules = nn.ModuleDict({"student": network.module, "objective": objective})
    if settings.sync_bn:
        synchronise_batch_norm(modules, device)
    modules.train().to(device)
    if settings.memory_format == "channels_last":
        modules.to(memory_format=torch.channels_last)
    if settings.compile:
        for module in filter(None, (network.module, objective.key_encoder)):
            module.compile()
    if settings.bank_size > len(replay.split):
        logger.warning(
            "'%s': a bank of %d is larger than the %d images: it holds earlier views of each beside the newest.",
            settings.run.name, settings.bank_size, len(replay.split),
        )  # fmt: skip

    def batch_of(replayed: Replayed) -> Batch:
        images = network.preprocessing.normalise(replayed.pixels[network.preprocessing.size])
        if settings.memory_format == "contiguous":
            images = images.contiguous()
        return Batch(images, replayed.teacher, replayed.rows)

    def parts(replayed: Replayed) -> list[Batch]:
        pieces = zip(*(field.chunk(settings.accumulation) for field in batch_of(replayed)), strict=True)
        return [Batch(*piece) for piece in pieces]

    def loss(part: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        value: tuple[Tensor, dict[str, Tensor]] = objective(network.module, part)
        return value

    def begin(epoch: int, step: int) -> None:
        _fill_banks(objective, settings, replay, epoch, step, batch_of)

    finer = next(
        (
            parts
            for parts in range(settings.accumulation + 1, settings.batch_size + 1)
            if settings.batch_size % parts == 0
        ),
        None,
    )
    exported = network
    if settings.export == "key":
        assert objective.key_encoder is not None
        exported = replace(network, module=objective.key_encoder)
    return Training(
        run=settings.run,
        settings=settings,
        modules=modules,
        loss=loss,
        save_network=lambda folder: save_network(folder / MODEL_FILE, exported),
        parts=parts,
        after_step=lambda: objective.after_step(network.module),
        begin=begin,
        measure=None if score is None else lambda: score(exported),
        when_memory_is_full=(
            f"set --accumulation {finer}, which computes the step in smaller parts, or " if finer else ""
        )
        + "lower --batch-size or --bank-size",
    )


def _fill_banks(
    objective: Objective,
    settings: DistillSettings,
    replay: Replay,
    epoch: int,
    step: int,
    batch_of: Callable[[Replayed], Batch],
) -> None:
    """Bring the teacher's bank to where it stood before a step, from the store; before the first, prefill if asked."""
    bank = objective.teacher_bank
    if bank is None:
        return
    seen = (epoch * replay.steps_per_epoch + step) * replay.batch_size
    if settings.prefill:
        stretches = replay.to_prefill(settings.bank_size)
        if seen < settings.bank_size:
            for embeddings in replay.embeddings(stretches):
                bank.enqueue(embeddings)
        else:  # nothing of it is left, but rows stand where it put them
            bank.skip(sum(len(stretch.rows) for stretch in stretches))
        if objective.student_bank is not None and (epoch, step) == (0, 0):
            seed_step(settings.seed, PREFILL_EPOCHS, 0)
            for replayed in replay.images(stretches):
                objective.prefill(batch_of(replayed))
    bank.skip(max(0, seen - settings.bank_size))
    for embeddings in replay.embeddings(replay.before(epoch, step, settings.bank_size)):
        bank.enqueue(embeddings)
