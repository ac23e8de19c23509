"""The stage: students, a store, and epoch after epoch of the teacher's views replayed to them.

Epoch e reads view 1 + (e mod V): the teacher's rows come from the store, the students see the same pixels, rendered
again from the stored parameters. Students that agree on what they see are trained on one stream of images. A student may
learn from several teachers at once: then the first one's store says what it sees.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from compress_ssl.pipeline.common.device import prepare_device
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.pipeline.distill.match_stores import check_same_views, match_rows
from compress_ssl.pipeline.distill.replay import Replay, ViewNumbers
from compress_ssl.pipeline.distill.settings import SHARED_IN_ONE_PASS, DistillSettings
from compress_ssl.pipeline.distill.task import DistillTask, build_student, check_parts, student_size
from compress_ssl.pipeline.distill.teacher_views import TeacherViews, bytes_of_views
from compress_ssl.pipeline.images.canaries import check_canaries
from compress_ssl.pipeline.images.policies import POLICIES
from compress_ssl.pipeline.images.renderers.make import make_renderer
from compress_ssl.pipeline.images.same_images import check_same_images
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.pipeline.training.distributed import rank0_first
from compress_ssl.pipeline.training.live import make_score_function
from compress_ssl.pipeline.training.loop import train
from compress_ssl.pipeline.training.out_of_memory import explain_out_of_memory
from compress_ssl.pipeline.training.process_group import process_group
from compress_ssl.pipeline.training.run_folder import check_run_folder, open_runs, run_leases
from compress_ssl.pipeline.training.task import BatchStream
from compress_ssl.storage import open_store
from compress_ssl.storage.errors import StoreIncompleteError
from compress_ssl.storage.schema import EVALUATION_VIEW

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from compress_ssl.pipeline.common.progress import Progress
    from compress_ssl.pipeline.training.live import LiveEvaluation
    from compress_ssl.storage import EmbeddingStore, Place, Split


def distill(student: DistillSettings, progress: Progress, live: LiveEvaluation | None = None) -> Path:
    """Train one student; see ``distill_together``."""
    (model,) = distill_together([student], progress, live)
    return model


@process_group()
def distill_together(
    students: Sequence[DistillSettings], progress: Progress, live: LiveEvaluation | None = None
) -> list[Path]:
    """Train students from stores, all on one stream of images. Each comes out as it would alone.

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
        If a store is missing, not complete, damaged, or of other images.
    RunError
        If training fails: a loss that is not a number, a renderer's failure, full memory.
    Stopped
        If a signal asked for the end.
    """
    shared = _shared(students)
    for student in students:
        check_parts(student)
        check_run_folder(student, student.run)
    device = prepare_device(shared.device, shared.thread_count, training=True)
    places = list(dict.fromkeys(place for student in students for place in student.stores))
    stores = [open_store(place) for place in places]
    splits = [store[shared.split] for store in stores]
    split = splits[0]
    is_fresh = shared.student_view == "fresh"
    numbers = ViewNumbers(0 if is_fresh else _random_views(split, shared.views))
    for each, place in zip(splits, places, strict=True):
        _check_complete(
            each, numbers, needs_view_0=any(student.needs_fit and place in student.stores for student in students)
        )
    view = split.views[numbers(0)]
    good = int(split.samples.good.sum())
    if good < shared.batch_size:
        raise InputError(
            f"--batch-size {shared.batch_size} is more than the {good} good images of split {split.name}; lower it."
        )
    sizes = {student.run: student_size(student, int(view["size"])) for student in students}
    with rank0_first():
        source = open_source(shared.data, split.folder, shared.run.parent / "index")
    check_same_images(split, source, shared.check_content, shared.thread_count, progress)
    rows_of = [match_rows(split, other) for other in splits[1:]]
    networks = [build_student(student, split, sizes[student.run]) for student in students]
    described = {place: _described(store, shared.split) for place, store in zip(places, stores, strict=True)}
    renderer = make_renderer(shared.renderer, device, shared.thread_count)
    if not is_fresh:
        check_canaries(stores[0], split.name, source, renderer, shared.batch_size)
        for store, other, row_of in zip(stores[1:], splits[1:], rows_of, strict=True):
            check_same_views(split, other, row_of, numbers.all)
            check_canaries(store, split.name, source, renderer, shared.batch_size, set(row_of.tolist()))
    scores = [make_score_function(student, renderer, progress, live) for student in students]
    with (
        explain_out_of_memory(
            f"The memory was full for {' and '.join(repr(str(student.run)) for student in students)} beside the network, at "
            f"--batch-size {shared.batch_size}; lower --bank-size, take --bank-precision float16, or --teacher-memory mapped."
        ),
        run_leases([student.run for student in students]),
        contextlib.ExitStack() as held,
    ):
        needed = sum(map(bytes_of_views, splits))
        teachers = tuple(
            held.enter_context(contextlib.closing(TeacherViews(each, numbers, shared, device, row_of, needed)))
            for each, row_of in zip(splits, [None, *rows_of], strict=True)
        )
        replay = Replay(
            split=split,
            source=source,
            renderer=renderer,
            teachers=teachers,
            sizes=tuple(sorted(set(sizes.values()))),
            batch_size=shared.batch_size,
            seed=shared.seed,
            number_of=numbers,
            policy=(shared.policy or POLICIES["crop-flip"]) if is_fresh else None,
        )
        tasks = [
            DistillTask(settings, network, replay, list(map(places.index, settings.stores)), device, score)
            for settings, network, score in zip(students, networks, scores, strict=True)
        ]
        open_runs([(student, student.run, _inputs(student, described)) for student in students])
        stream = BatchStream(shared.epochs, replay.steps_per_epoch, shared.batch_size, replay.batches, replay.waits)
        train(tasks, stream, f"distill {', '.join(student.run.name for student in students)}", progress)
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


def _described(store: EmbeddingStore, split: str) -> dict[str, Any]:
    return {
        "teacher": store.attributes["teacher"],
        "data_set": store.attributes["data_set"],
        "views": store[split].views,
    }


def _inputs(student: DistillSettings, described: Mapping[Place, dict[str, Any]]) -> dict[str, Any]:
    """What a student is made from: the first store's teacher, images and views, and those of the further ones."""
    first, *further = (described[place] for place in student.stores)
    return {**first, "further_teachers": further} if further else first


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
    needed = {*numbers.all, *([EVALUATION_VIEW] if needs_view_0 else [])}
    if max(needed) >= len(split.views):
        raise InputError(
            f"{numbers.random_views} random views are replayed, but '{split.path.parent}' has {len(split.views) - 1}; embed "
            "it with as many --views, train on fewer with --views, or with --student-view fresh."
        )
    missing = sorted(needed.difference(split.complete_views))
    if missing:
        raise StoreIncompleteError(
            f"View {missing[0]} of split {split.name} of '{split.path.parent}' is not complete; finish it with "
            "'compress-ssl embed --resume', or train on fewer with --views."
        )
