"""What an objective holds when its training begins or goes on, and its checkpoint does not: it comes from the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.distill.objectives.objective import AllImages, Batch, Objective
from pipeline.distill.replay import PREFILL_EPOCHS, Replay, Replayed
from pipeline.training.distributed import is_main, send_state
from pipeline.training.schedule import seed_step

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.distill.settings import DistillSettings


def begin_objective(
    objective: Objective,
    settings: DistillSettings,
    replay: Replay,
    epoch: int,
    step: int,
    batch_of: Callable[[Replayed], Batch],
) -> None:
    """Let an objective look at all images before its first step, and bring the banks to where they stood before a step."""
    if settings.looks_at_all and (epoch, step) == (0, 0):
        if is_main():
            objective.look_at_all(AllImages(*replay.all_embeddings()))
        send_state(objective)
    if objective.teacher_bank is not None and settings.anchors == "queue":
        _fill_banks(objective, settings, replay, epoch, step, batch_of)


def _fill_banks(
    objective: Objective,
    settings: DistillSettings,
    replay: Replay,
    epoch: int,
    step: int,
    batch_of: Callable[[Replayed], Batch],
) -> None:
    """Fill the teacher's bank with what was seen before a step; before the first, prefill both if asked."""
    bank = objective.teacher_bank
    assert bank is not None
    seen = (epoch * replay.steps_per_epoch + step) * replay.batch_size
    if settings.prefill:
        stretches = replay.to_prefill(settings.bank_size)
        if seen < settings.bank_size:
            for embeddings, rows in replay.embeddings(stretches):
                bank.enqueue(objective.of_teacher(embeddings), rows)
        else:  # nothing of it is left, but rows stand where it put them
            bank.skip(sum(len(stretch.rows) for stretch in stretches))
        if objective.student_bank is not None and (epoch, step) == (0, 0):
            seed_step(settings.seed, PREFILL_EPOCHS, 0)
            for replayed in replay.images(stretches):
                objective.prefill(batch_of(replayed))
    bank.skip(max(0, seen - settings.bank_size))
    for embeddings, rows in replay.embeddings(replay.before(epoch, step, settings.bank_size)):
        bank.enqueue(objective.of_teacher(embeddings), rows)
