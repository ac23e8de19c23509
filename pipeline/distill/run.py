"""The stage: a student, a store, and epoch after epoch of the teacher's views replayed to it.

Epoch e reads view 1 + (e mod V): the teacher's rows come from the store, the student sees the same pixels, rendered
again from the stored parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from pipeline.distill.objectives import OBJECTIVES
from pipeline.distill.replay import check_images_are_there, replay
from pipeline.distill.teacher_bank import TeacherBank
from pipeline.errors import InputError
from pipeline.images.rendering import make_renderer
from pipeline.images.sources.open_source import open_source
from pipeline.machine import prepare_machine
from pipeline.networks.architectures import build_backbone
from pipeline.networks.network import MODEL_FILE, Network, save_network
from pipeline.networks.preprocessing import Preprocessing
from pipeline.training.loop import Training, open_run, train
from pipeline.training.schedule import epoch_order
from storage import open_store
from storage.schema import EVALUATION_VIEW

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.distill.objectives.objective import Batch
    from pipeline.distill.settings import DistillSettings
    from pipeline.progress import Progress
    from storage import Split


def distill(settings: DistillSettings, progress: Progress) -> Path:
    """Train a student from a store.

    Returns
    -------
    model : Path
        The student's ``model.safetensors``.

    Raises
    ------
    InputError
        If the data, the student or a setting cannot be used, or the run's folder is taken.
    StoreError
        If the store is missing, not complete, damaged, or of other images.
    RunError
        If training fails: a loss that is not a number, a renderer's failure.
    """
    device = prepare_machine(settings.device, settings.thread_count)
    # On the CPU this costs next to nothing, and a resumed run ends in the same weights.
    torch.use_deterministic_algorithms(device.type == "cpu")
    store = open_store(settings.store)
    split = store[settings.split]
    view_count = _random_views(split, settings.views)
    rows = np.flatnonzero(split.samples.good)
    steps = len(rows) // settings.batch_size
    if steps == 0:
        raise InputError(
            f"--batch-size {settings.batch_size} is more than the {len(rows)} good images of split {split.name}; lower it."
        )
    source = open_source(settings.data, split.folder)
    check_images_are_there(split, source)

    backbone = build_backbone(settings.student, settings.seed)
    preprocessing = Preprocessing(
        size=int(split.views[1]["size"]), resize=int(split.views[EVALUATION_VIEW]["policy"]["resize"])
    )
    student = Network(settings.run.name, settings.student, *backbone, preprocessing)
    torch.manual_seed(settings.seed)
    objective = OBJECTIVES[settings.objective](student.module, student.feature_dim, split.feature_dim, settings)
    modules = nn.ModuleDict({"student": student.module, "objective": objective})
    modules.train().to(device).to(memory_format=torch.channels_last)

    inputs = {"teacher": store.attributes["teacher"], "data_set": store.attributes["data_set"], "views": split.views}
    open_run(settings.run, settings, inputs)
    renderer = make_renderer(settings.renderer, device, settings.thread_count)
    bank = TeacherBank(split, view_count, settings.epochs)

    def batches(epoch: int, first_step: int) -> Iterator[Batch]:
        order = epoch_order(rows, settings.seed, epoch)[first_step * settings.batch_size : steps * settings.batch_size]
        yield from replay(renderer, split, source, bank.view_of_epoch(epoch), order, settings.batch_size, preprocessing)

    training = Training(
        modules=modules,
        steps_per_epoch=steps,
        batch_size=settings.batch_size,
        batches=batches,
        loss=lambda batch: objective(student.module, batch),
        after_step=lambda: objective.after_step(student.module),
    )
    train(settings.run, settings, training, f"distill {settings.run.name}", progress)
    save_network(settings.run / MODEL_FILE, student)
    return settings.run / MODEL_FILE


def _random_views(split: Split, asked: int | None) -> int:
    """How many random views to use; all that the store has unless told otherwise."""
    available = len(split.views) - 1 - EVALUATION_VIEW
    if available == 0:
        raise InputError(
            f"Split {split.name} of '{split.path.parent}' has the evaluation view alone; a student needs random views: "
            "embed with --views."
        )
    if asked is not None and asked > available:
        raise InputError(f"--views {asked} was asked for, but '{split.path.parent}' has {available} random views.")
    return asked or available
