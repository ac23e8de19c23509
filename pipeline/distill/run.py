"""The stage: students, a store, and epoch after epoch of the teacher's views replayed to them.

Epoch e reads view 1 + (e mod V): the teacher's rows come from the store, the students see the same pixels, rendered
again from the stored parameters. Students that agree on what they see are trained on one stream of images.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pipeline.distill.replay import Replay, ViewNumbers
from pipeline.distill.settings import SHARED_IN_ONE_PASS, DistillSettings
from pipeline.distill.student import build_student, check_parts, student_size, student_training
from pipeline.distill.teacher_views import TeacherViews
from pipeline.errors import InputError
from pipeline.images.canaries import check_canaries
from pipeline.images.identity import check_same_images
from pipeline.images.policies import POLICIES
from pipeline.images.rendering import make_renderer
from pipeline.images.sources.open_source import open_source
from pipeline.machine import prepare_machine
from pipeline.networks.network import MODEL_FILE
from pipeline.training.distributed import main_first
from pipeline.training.live import make_score
from pipeline.training.loop import Stream, train
from pipeline.training.memory import full_memory_as_sentence
from pipeline.training.process_group import process_group
from pipeline.training.run_folder import check_place, open_runs, run_leases
from storage import open_store
from storage.errors import StoreIncompleteError
from storage.schema import EVALUATION_VIEW

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.progress import Progress
    from pipeline.training.live import LiveEvaluation
    from storage import Split


def distill(student: DistillSettings, progress: Progress, live: LiveEvaluation | None = None) -> Path:
    """Train one student; see ``distill_together``."""
    (model,) = distill_together([student], progress, live)
    return model


@process_group()
def distill_together(
    students: Sequence[DistillSettings], progress: Progress, live: LiveEvaluation | None = None
) -> list[Path]:
    """Train students from a store, all on one stream of images. Each comes out as it would alone.

    Under torchrun all processes call it, and share every batch.

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
    for student in students:
        check_parts(student)
        check_place(student, student.run)
    device = prepare_machine(shared.device, shared.thread_count, training=True)
    store = open_store(shared.store)
    split = store[shared.split]
    is_fresh = shared.student_view == "fresh"
    numbers = ViewNumbers(0 if is_fresh else _random_views(split, shared.views))
    _check_complete(split, numbers, needs_view_0=any(student.looks_at_all for student in students))
    view = split.views[numbers(0)]
    good = int(split.samples.good.sum())
    if good < shared.batch_size:
        raise InputError(
            f"--batch-size {shared.batch_size} is more than the {good} good images of split {split.name}; lower it."
        )
    sizes = {student.run: student_size(student, int(view["size"])) for student in students}
    with main_first():
        source = open_source(shared.data, split.folder, shared.run.parent / "index")
    check_same_images(split, source, shared.check_content, shared.thread_count, progress)
    networks = [build_student(student, split, sizes[student.run]) for student in students]
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
        run_leases([student.run for student in students]),
        contextlib.closing(TeacherViews(split, numbers, shared, device)) as teacher,
    ):
        replay = Replay(
            split=split,
            source=source,
            renderer=renderer,
            teacher=teacher,
            sizes=tuple(sorted(set(sizes.values()))),
            batch_size=shared.batch_size,
            seed=shared.seed,
            number_of=numbers,
            policy=(shared.policy or POLICIES["crop-flip"]) if is_fresh else None,
        )
        trainings = [
            student_training(settings, network, replay, device, score)
            for settings, network, score in zip(students, networks, scores, strict=True)
        ]
        open_runs([(student, student.run, inputs) for student in students])
        stream = Stream(shared.epochs, replay.steps_per_epoch, shared.batch_size, replay.batches, teacher.waits)
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


def _check_complete(split: Split, numbers: ViewNumbers, *, needs_view_0: bool) -> None:
    """Check before the first step that every view which will be read is there."""
    needed = {numbers(epoch) for epoch in range(max(1, numbers.random_views))} | (
        {EVALUATION_VIEW} if needs_view_0 else set()
    )
    missing = sorted(needed.difference(split.complete_views))
    if missing:
        raise StoreIncompleteError(
            f"View {missing[0]} of split {split.name} of '{split.path.parent}' is not complete; finish it with "
            "'compress-ssl embed --resume', or train on fewer with --views."
        )
