"""The stage: students trained on replayed views against the embeddings of stores.

Epoch e reads view 1 + (e mod V): the teacher's embeddings come from the store, and the students see the same pixels,
rendered again from the stored parameters. Students that agree on what they see are trained on one stream of images. A
student may learn from several teachers at once; its first store then decides what it sees.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from compress_ssl.pipeline.common.device import choose_precision, prepare_device
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.pipeline.common.torch_errors import explain_out_of_memory
from compress_ssl.pipeline.distill.inputs import check_complete, check_students, open_inputs
from compress_ssl.pipeline.distill.replay import Replay
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.distill.task import DistillTask, build_student
from compress_ssl.pipeline.distill.teacher_views import TeacherViews, bytes_of_views
from compress_ssl.pipeline.images.policies import POLICIES
from compress_ssl.pipeline.training.distributed import check_gpus_differ, process_group
from compress_ssl.pipeline.training.loop import train
from compress_ssl.pipeline.training.run_folder import open_runs, run_leases
from compress_ssl.pipeline.training.schedule import images_per_epoch, last_batch_record
from compress_ssl.pipeline.training.task import BatchStream, LiveEvaluation, make_score_function
from compress_ssl.storage.schema import EVALUATION_VIEW


def distill(student: DistillSettings, progress: Progress, live: LiveEvaluation | None = None) -> Path:
    """Train one student; see ``distill_together``."""
    (model,) = distill_together([student], progress, live)
    return model


@process_group()
def distill_together(
    students: Sequence[DistillSettings], progress: Progress, live: LiveEvaluation | None = None
) -> list[Path]:
    """Train students from stores on one stream of images; each ends with the weights it would have alone.

    Under torchrun all ranks call it, and share every batch.

    Args:
        students (sequence of DistillSettings): They agree on ``SHARED_IN_ONE_PASS``.
        live: Makes the live evaluation of students that ask for one.

    Returns:
        models (list of Path): The students' ``model.safetensors``.

    Raises:
        InputError: If the data, a student or a setting cannot be used, or a run's folder is taken.
        StoreError: If a store is missing, incomplete, damaged, or of other images.
        RunError: If training fails: the loss is not finite, a renderer fails, memory is full.
        Stopped: If a signal stopped it.
    """
    check_students(students)
    device = prepare_device(students[0].device, students[0].thread_count, training=True)
    check_gpus_differ(device)
    students = [
        student.model_copy(update={"precision": choose_precision(student.precision, device, training=True)})
        for student in students
    ]
    shared = students[0]
    inputs = open_inputs(students, device, progress)

    networks = [build_student(student, inputs.splits[0], inputs.view_size) for student in students]
    scores = [make_score_function(student, inputs.renderer, progress, live) for student in students]
    runs = " and ".join(repr(str(student.run)) for student in students)
    with (
        explain_out_of_memory(
            f"The memory was full for {runs} beside the network, at --batch-size {shared.batch_size}; lower "
            "--bank-size, take --bank-precision float16, or --teacher-memory mapped."
        ),
        run_leases([student.run for student in students]),
        contextlib.ExitStack() as held,
    ):
        of_teachers = list(zip(inputs.splits, inputs.with_patches, inputs.row_of, strict=True))
        needed = sum(bytes_of_views(split, patches=patches) for split, patches, _ in of_teachers)
        teachers = tuple(
            held.enter_context(
                contextlib.closing(
                    TeacherViews(split, inputs.schedule, shared, device, row_of, needed, patches=patches)
                )
            )
            for split, patches, row_of in of_teachers
        )
        replay = Replay(
            split=inputs.splits[0],
            source=inputs.source,
            renderer=inputs.renderer,
            teachers=teachers,
            sizes=tuple(sorted({network.preprocessing.size for network in networks})),
            images_per_epoch=images_per_epoch(int(inputs.splits[0].samples.good.sum()), shared),
            batch_size=shared.batch_size,
            seed=shared.seed,
            schedule=inputs.schedule,
            policy=(shared.policy or POLICIES["crop-flip"]) if shared.student_view == "fresh" else None,
        )
        tasks = [
            DistillTask(
                student, network, replay, inputs.teachers(student), inputs.projection_heads(student), device, score
            )
            for student, network, score in zip(students, networks, scores, strict=True)
        ]
        for student, task in zip(students, tasks, strict=True):
            if task.needs_fit:
                for teacher in inputs.teachers(student):
                    check_complete(inputs.splits[teacher], [EVALUATION_VIEW])
        kept = last_batch_record(shared, replay.images_per_epoch)
        open_runs([(student, student.run, inputs.record(student) | kept) for student in students])

        stream = BatchStream(
            epochs=shared.epochs,
            images_per_epoch=replay.images_per_epoch,
            batch_size=shared.batch_size,
            batches=replay.batches,
            waits=replay.waits,
        )
        train(tasks, stream, f"distill {_listed([student.run.name for student in students])}", progress)
    return [student.run / MODEL_FILE for student in students]


def _listed(names: Sequence[str]) -> str:
    """Return up to three names, or two and the number of the others, for a line of progress."""
    return ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]} and {len(names) - 2} others"
