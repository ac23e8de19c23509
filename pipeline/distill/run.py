"""The stage: students, a store, and epoch after epoch of the teacher's views replayed to them.

Epoch e reads view 1 + (e mod V): the teacher's rows come from the store, the students see the same pixels, rendered
again from the stored parameters. Students that agree on what they see are trained on one stream of images.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.distill.objectives import OBJECTIVES
from pipeline.distill.objectives.objective import Batch, Objective
from pipeline.distill.replay import PREFILL_EPOCHS, Replay, Replayed, ViewNumbers, check_images_are_there
from pipeline.distill.settings import SHARED_IN_ONE_PASS, DistillSettings
from pipeline.distill.teacher_bank import TeacherBank
from pipeline.errors import InputError
from pipeline.images.canaries import check_canaries
from pipeline.images.policies import POLICIES
from pipeline.images.rendering import make_renderer
from pipeline.images.sources.open_source import open_source
from pipeline.machine import prepare_machine
from pipeline.networks.architectures import build_backbone
from pipeline.networks.network import MODEL_FILE, Network, save_network
from pipeline.networks.preprocessing import Preprocessing
from pipeline.training.live import make_score
from pipeline.training.loop import Stream, Training, full_memory_as_sentence, train
from pipeline.training.run_folder import open_runs
from pipeline.training.schedule import seed_step
from storage import open_store
from storage.errors import StoreIncompleteError
from storage.schema import EVALUATION_VIEW

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from pipeline.progress import Progress
    from pipeline.training.live import LiveEvaluation, Score
    from storage import Split

logger = logging.getLogger(__name__)


def distill(student: DistillSettings, progress: Progress, live: LiveEvaluation | None = None) -> Path:
    """Train one student; see ``distill_together``."""
    (model,) = distill_together([student], progress, live)
    return model


def distill_together(
    students: Sequence[DistillSettings], progress: Progress, live: LiveEvaluation | None = None
) -> list[Path]:
    """Train students from a store, all on one stream of images. Each comes out as it would alone.

    Parameters
    ----------
    students : sequence of DistillSettings
        They agree on ``SHARED_IN_ONE_PASS``.
    live : callable, optional
        Makes the live evaluation of students that ask for one.

    Returns
    -------
    models : list of Path
        The students' ``model.safetensors``.

    Raises
    ------
    InputError
        If the data, a student or a setting cannot be used, or a run's folder is taken.
    StoreError
        If the store is missing, not complete, damaged, or of other images.
    RunError
        If training fails: a loss that is not a number, a renderer's failure, full memory.
    Stopped
        If a signal asked for the end.
    """
    shared = _shared(students)
    device = prepare_machine(shared.device, shared.thread_count)
    # On the CPU this costs next to nothing, and a resumed run ends in the same weights.
    torch.use_deterministic_algorithms(device.type == "cpu")
    store = open_store(shared.store)
    split = store[shared.split]
    is_fresh = shared.student_view == "fresh"
    numbers = ViewNumbers(0 if is_fresh else _random_views(split, shared.views))
    _check_complete(split, numbers)
    view = split.views[numbers(0)]
    good = int(split.samples.good.sum())
    if good < shared.batch_size:
        raise InputError(
            f"--batch-size {shared.batch_size} is more than the {good} good images of split {split.name}; lower it."
        )
    sizes = {student.run: _student_size(student, int(view["size"])) for student in students}
    source = open_source(shared.data, split.folder, shared.run.parent / "index")
    check_images_are_there(split, source)
    networks = [_build(student, split, sizes[student.run]) for student in students]
    inputs = {"teacher": store.attributes["teacher"], "data_set": store.attributes["data_set"], "views": split.views}
    renderer = make_renderer(shared.renderer, device, shared.thread_count)
    if not is_fresh:
        check_canaries(store, split.name, source, renderer, shared.batch_size)
    scores = [make_score(student, renderer, progress, live) for student in students]
    with (
        full_memory_as_sentence(
            f"The memory was full for {' and '.join(repr(str(student.run)) for student in students)} beside the network, at "
            f"--batch-size {shared.batch_size}; lower --bank-size, take --bank-precision float16, or --teacher-memory mapped."
        ),
        contextlib.closing(TeacherBank(split, numbers, shared, device)) as bank,
    ):
        replay = Replay(
            split=split,
            source=source,
            renderer=renderer,
            bank=bank,
            sizes=tuple(sorted(set(sizes.values()))),
            batch_size=shared.batch_size,
            seed=shared.seed,
            number_of=numbers,
            policy=(shared.policy or POLICIES["crop-flip"]) if is_fresh else None,
        )
        trainings = [
            _training(settings, network, replay, device, score)
            for settings, network, score in zip(students, networks, scores, strict=True)
        ]
        open_runs([(student, student.run, inputs) for student in students])
        stream = Stream(shared.epochs, replay.steps_per_epoch, shared.batch_size, replay.batches, bank.waits)
        train(trainings, stream, f"distill {', '.join(student.run.name for student in students)}", progress)
    return [student.run / MODEL_FILE for student in students]


def _shared(students: Sequence[DistillSettings]) -> DistillSettings:
    """Settings of the first student, which stand for all in what they share."""
    first = students[0]
    for number, other in enumerate(students[1:], 1):
        if any(other.run == earlier.run for earlier in students[:number]):
            raise InputError(f"'{other.run}' is the folder of two students; give each its own.")
        for field in SHARED_IN_ONE_PASS:
            if getattr(other, field) != getattr(first, field):
                raise InputError(
                    f"'{first.run}' and '{other.run}' cannot be trained on one stream of images: their {field} differ; "
                    "train them one after the other."
                )
    return first


def _random_views(split: Split, asked: int | None) -> int:
    """How many random views to use; all that the store has unless told otherwise."""
    available = len(split.views) - 1 - EVALUATION_VIEW
    if available == 0:
        raise InputError(
            f"Split {split.name} of '{split.path.parent}' has the evaluation view alone; a student needs random views: "
            "embed with --views, or train with --student-view fresh."
        )
    if asked is not None and asked > available:
        raise InputError(f"--views {asked} was asked for, but '{split.path.parent}' has {available} random views.")
    return asked or available


def _check_complete(split: Split, numbers: ViewNumbers) -> None:
    """Check before the first step that every view which will be read is there."""
    needed = {numbers(epoch) for epoch in range(max(1, numbers.random_views))}
    missing = sorted(needed.difference(split.complete_views))
    if missing:
        raise StoreIncompleteError(
            f"View {missing[0]} of split {split.name} of '{split.path.parent}' is not complete; finish it with "
            "'compress-ssl embed --resume', or train on fewer with --views."
        )


def _student_size(settings: DistillSettings, size: int) -> int:
    if settings.student_size is not None and settings.student_size > size:
        raise InputError(
            f"--student-size {settings.student_size} is larger than the {size} pixels of the views in "
            f"'{settings.store}'; a student sees at most what the teacher saw."
        )
    return settings.student_size or size


def _build(settings: DistillSettings, split: Split, size: int) -> Network:
    """The untrained student; its evaluation view keeps the teacher's proportion of resize and crop."""
    evaluation = split.views[EVALUATION_VIEW]
    resize = round(int(evaluation["policy"]["resize"]) * size / int(evaluation["size"]))
    backbone = build_backbone(settings.student, settings.seed)
    return Network(settings.run.name, settings.student, *backbone, Preprocessing(size=size, resize=resize))


def _training(
    settings: DistillSettings,
    network: Network,
    replay: Replay,
    device: torch.device,
    score: Score | None,
) -> Training[Replayed]:
    """One student's training: its objective, its banks, and what to do with a batch of the stream."""
    torch.manual_seed(settings.seed)
    teacher_dim = replay.split.feature_dim
    objective = OBJECTIVES[settings.objective](network.module, network.feature_dim, teacher_dim, settings)
    modules = nn.ModuleDict({"student": network.module, "objective": objective})
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
    if settings.prefill:
        stretches = replay.to_prefill(settings.bank_size)
        for embeddings in replay.embeddings(stretches):
            bank.enqueue(embeddings)
        if objective.student_bank is not None and (epoch, step) == (0, 0):
            seed_step(settings.seed, PREFILL_EPOCHS, 0)
            for replayed in replay.images(stretches):
                objective.prefill(batch_of(replayed))
    seen = (epoch * replay.steps_per_epoch + step) * replay.batch_size
    bank.skip(max(0, seen - settings.bank_size))
    for embeddings in replay.embeddings(replay.before(epoch, step, settings.bank_size)):
        bank.enqueue(embeddings)
