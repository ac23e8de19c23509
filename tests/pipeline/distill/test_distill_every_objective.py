"""What holds for every objective: where gradients go, resuming, sharing a pass."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill.objectives import OBJECTIVES
from compress_ssl.pipeline.distill.objectives.objective import Batch, TeacherEmbeddings
from compress_ssl.pipeline.distill.run import distill_together
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.distill.task import build_objective
from compress_ssl.pipeline.networks.architectures import build_backbone
from compress_ssl.pipeline.recipe.live_evaluation import live_evaluation
from tests.pipeline.distill.kinds import KINDS

Students = Callable[..., DistillSettings]
Trained = Callable[..., dict[str, Tensor]]


def test_the_kinds_are_of_all_objectives() -> None:
    assert {kind["objective"] for kind in KINDS.values()} == set(OBJECTIVES)


def test_gradients_reach_the_student_and_all_own_weights_and_no_stored_embedding(student: Students) -> None:
    for kind, given in KINDS.items():
        check_gradients(kind, student(**given))


def check_gradients(kind: str, settings: DistillSettings) -> None:
    module, feature_dim = build_backbone("conv4-16", 0)
    torch.manual_seed(0)
    objective: Any = build_objective(
        settings,
        settings.objective_options,
        module,
        student_dim=feature_dim,
        teacher_dim=24,
        images=100,
        projection_head=torch.nn.Sequential(torch.nn.Linear(24, 24), torch.nn.ReLU(), torch.nn.Linear(24, 8)),
    )
    embeddings = torch.nn.functional.normalize(torch.randn(100, 24), dim=1)
    objective.fit_teacher(TeacherEmbeddings(embeddings, torch.arange(100)))
    rows = torch.arange(40, 52)
    batch = Batch(torch.randn(12, 3, 16, 16), embeddings[rows], rows)
    stored = {"teacher": batch.teacher_embeddings, "all": embeddings, **dict(objective.named_buffers())}
    stored = {key: value for key, value in stored.items() if "constants" not in key and "key_projection" not in key}
    before = {key: value.clone() for key, value in stored.items()}
    trained = [weight for each in (module, objective) for weight in each.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.1)
    for _ in range(2):  # in the first step reg's head, which begins with zeros, lets nothing through
        optimizer.zero_grad()
        loss, diagnostics = objective.train()(module.train(), batch)
        loss.backward()
        optimizer.step()
    for key, weight in [*module.named_parameters(), *objective.named_parameters()]:
        if "key_" in key or key.startswith("projection_head."):
            assert not weight.requires_grad, (kind, key)
        elif not key.endswith("bias"):  # a batch norm that follows takes it out
            assert weight.grad is not None, (kind, key)
            assert weight.grad.abs().max() > 0, (kind, key)
    for key, value in stored.items():
        assert not value.requires_grad, (kind, key)
        assert torch.equal(value, before[key]) or "running" in key or "batches" in key or "key_encoder" in key, (
            kind,
            key,
        )
    assert all(not value.requires_grad for value in diagnostics.values()), kind


def test_last_smaller_batch_is_trained_on_by_every_objective(student: Students, metrics: Any) -> None:
    students = [student(kind, **given, keep_last=True) for kind, given in KINDS.items()]
    titles = []

    class Titles(Silent):
        def track(self, title: str, total: int, unit: str = "images") -> AbstractContextManager[Callable[[int], None]]:
            titles.append(title)
            return super().track(title, total, unit)

    distill_together(students, Titles())
    first, second, *others = (settings.run.name for settings in students)
    assert titles == [f"distill {first}, {second} and {len(others)} others"]
    for settings in students:
        ends = [line for line in metrics(settings.run) if "loss" in line and line["step"] == 4]  # 8 + 8 + 8 + 5
        assert [line["epoch"] for line in ends] == [0, 1, 2], settings.run
        assert all(math.isfinite(line["loss"]) for line in ends), settings.run


def test_in_one_pass_that_is_killed_twice_each_ends_as_alone_and_never_stopped_bit_for_bit(
    student: Students, trained: Trained, killed_after: Any, assert_same: Any, metrics: Any
) -> None:
    students = [student(kind, **given, accumulation=2) for kind, given in KINDS.items()]
    for steps in (2, 3):  # of 9: in the first and in the second epoch
        killed_after(steps, students)
        students = [each.model_copy(update={"resume": True}) for each in students]
    models = distill_together(students, Silent(), live_evaluation)
    for (kind, given), settings, model in zip(KINDS.items(), students, models, strict=True):
        alone = settings.run.with_name(f"alone-{kind}")
        assert_same(load_file(model), trained(alone.name, **given, accumulation=2))
        assert metrics(settings.run) == metrics(alone), kind
        mine, other = (torch.load(run / "checkpoint.pt") for run in (settings.run, alone))
        assert_same(mine["modules"], other["modules"])
