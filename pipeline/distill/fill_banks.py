"""What objectives hold when their training begins or goes on, and its checkpoint does not: it comes from the stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress_ssl.pipeline.distill.objectives.objective import AllImages, Batch, Objective
from compress_ssl.pipeline.distill.replay import PREFILL_EPOCHS, Replay, Replayed
from compress_ssl.pipeline.training.distributed import broadcast_state, is_rank0
from compress_ssl.pipeline.training.schedule import seed_step

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from compress_ssl.pipeline.distill.settings import DistillSettings


def fill_banks(
    objectives: Sequence[Objective],
    teachers: Sequence[int],
    settings: DistillSettings,
    replay: Replay,
    epoch: int,
    step: int,
    batches_of: Callable[[Replayed], Sequence[Batch]],
) -> None:
    """Let objectives look at all images before their first step, and bring the banks to where they stood before a step.

    Parameters
    ----------
    objectives : sequence of Objective
        A student's.
    teachers : sequence of int
        Number of the replay's teacher that each is of.
    batches_of : callable
        The batch that each of them sees, in their order.
    """
    if settings.needs_fit and (epoch, step) == (0, 0):
        for objective, teacher in zip(objectives, teachers, strict=True):
            if is_rank0():
                objective.fit_teacher(AllImages(*replay.all_embeddings(teacher)))
            broadcast_state(objective)
    if settings.anchors == "queue":
        for objective, teacher in zip(objectives, teachers, strict=True):
            _fill_teacher_bank(objective, teacher, settings, replay, epoch, step)
        if settings.prefill and (epoch, step) == (0, 0):
            _prefill_student_banks(objectives, settings, replay, batches_of)


def _fill_teacher_bank(
    objective: Objective, teacher: int, settings: DistillSettings, replay: Replay, epoch: int, step: int
) -> None:
    """Fill a teacher's bank with what was seen before a step; before the first, prefill it if asked."""
    bank = objective.teacher_bank
    if bank is None:
        return
    seen = (epoch * replay.steps_per_epoch + step) * replay.batch_size
    if settings.prefill:
        stretches = replay.to_prefill(settings.bank_size)
        if seen < settings.bank_size:
            for embeddings, rows in replay.embeddings(teacher, stretches):
                bank.enqueue(objective.transform_teacher(embeddings), rows)
        else:  # nothing of it is left, but rows stand where it put them
            bank.skip(sum(len(stretch.rows) for stretch in stretches))
    bank.skip(max(0, seen - settings.bank_size))
    for embeddings, rows in replay.embeddings(teacher, replay.before(epoch, step, settings.bank_size)):
        bank.enqueue(objective.transform_teacher(embeddings), rows)


def _prefill_student_banks(
    objectives: Sequence[Objective],
    settings: DistillSettings,
    replay: Replay,
    batches_of: Callable[[Replayed], Sequence[Batch]],
) -> None:
    """Fill the students' banks with embeddings of the images that the teachers' were prefilled with."""
    if all(objective.student_bank is None for objective in objectives):
        return
    seed_step(settings.seed, PREFILL_EPOCHS, 0)
    for replayed in replay.images(replay.to_prefill(settings.bank_size)):
        for objective, batch in zip(objectives, batches_of(replayed), strict=True):
            objective.prefill(batch)
