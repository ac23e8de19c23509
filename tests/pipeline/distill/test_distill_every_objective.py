"""What holds for every objective: where gradients go, going on, sharing a pass, several processes, options."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill.objectives import OBJECTIVES
from compress_ssl.pipeline.distill.objectives.objective import AllImages, Batch
from compress_ssl.pipeline.distill.run import distill, distill_together
from compress_ssl.pipeline.distill.settings import DistillSettings, options_for
from compress_ssl.pipeline.distill.task import build_objective
from compress_ssl.pipeline.networks.architectures import build_backbone
from compress_ssl.pipeline.recipe.live_evaluation import live_evaluation

Students = Callable[..., DistillSettings]
Trained = Callable[..., dict[str, Tensor]]

KINDS: dict[str, dict[str, Any]] = {
    "2q": {"objective": "compress-2q", "mask_own": True, "centre": True, "bank_size": 29, "prefill": True},
    "1q": {"objective": "compress-1q", "mask_own": True, "centre": True, "teacher_temperature": 0.02},
    "1q-random": {"objective": "compress-1q", "anchors": "random", "mask_own": True, "bank_precision": "float16"},
    "1q-k-means": {"objective": "compress-1q", "anchors": "k-means", "centre": True, "bank_size": 7},
    "reg": {"objective": "reg"},
    "reg-bn": {"objective": "reg-bn", "learning_rate": 0.01},
    "simreg": {"objective": "simreg"},
    "seed": {"objective": "seed", "prefill": True, "mask_own": True},
    "crd": {"objective": "crd", "negatives": 40},
    "crd-queue": {"objective": "crd", "negatives": 40, "negative_queue": 12},
    "cc": {"objective": "cc", "clusters": 4},
}
"""Students of 29 images, each other than the default in what it keeps."""

DRAWS_BY_PROCESS = {"crd", "crd-queue"}
"""Each process draws its own images' negatives."""


def test_the_kinds_are_of_all_objectives() -> None:
    assert {kind["objective"] for kind in KINDS.values()} == set(OBJECTIVES)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_student_and_all_own_weights_and_no_stored_embedding(student: Students, kind: str) -> None:
    settings = student(**KINDS[kind])
    module, feature_dim = build_backbone("conv4-16", 0)
    torch.manual_seed(0)
    objective: Any = build_objective(
        settings, settings.objective_options, module, student_dim=feature_dim, teacher_dim=24, images=100
    )
    embeddings = torch.nn.functional.normalize(torch.randn(100, 24), dim=1)
    objective.fit_teacher(AllImages(embeddings, torch.arange(100)))
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
        if "key_" in key:
            assert not weight.requires_grad
        elif not key.endswith("bias"):  # a batch norm that follows takes it out
            assert weight.grad is not None, key
            assert weight.grad.abs().max() > 0, key
    for key, value in stored.items():
        assert not value.requires_grad
        assert torch.equal(value, before[key]) or "running" in key or "batches" in key or "key_encoder" in key, key
    assert all(not value.requires_grad for value in diagnostics.values())


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_run_ends_as_one_never_stopped_bit_for_bit(
    student: Students, trained: Trained, killed_after: Any, assert_same: Any, metrics: Any, kind: str
) -> None:
    given = {**KINDS[kind], "accumulation": 2}
    expected = trained("whole", **given)
    settings = student(**given)
    for steps in (2, 3):  # of 9: in the first and in the second epoch
        killed_after(steps, [settings])
        settings = settings.model_copy(update={"resume": True})
    model = distill(settings, Silent(), live_evaluation)
    assert_same(load_file(model), expected)
    assert metrics(settings.run) == metrics(settings.run.with_name("whole"))
    mine, other = (torch.load(settings.run.with_name(name) / "checkpoint.pt") for name in (settings.run.name, "whole"))
    assert_same(mine["modules"], other["modules"])


def test_all_objectives_share_a_pass_and_end_as_each_alone(
    student: Students, trained: Trained, assert_same: Any
) -> None:
    models = distill_together([student(kind, **given) for kind, given in KINDS.items()], Silent(), live_evaluation)
    for (kind, given), model in zip(KINDS.items(), models, strict=True):
        assert_same(load_file(model), trained(f"alone-{kind}", **given))


@pytest.fixture(scope="module")
def in_two(
    data: Path, store: Path, tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, in_two_processes: Any
) -> tuple[list[DistillSettings], Any]:
    """All kinds in one pass of two processes, of a network without batch norm; and what each process holds in the end."""
    place = tmp_path_factory.mktemp("two")
    settings = []
    for kind, given in KINDS.items():
        head = {"head": "linear"} if given["objective"] == "simreg" else {}  # its own has batch norm
        own = {
            **options_for(tiny, given["objective"]),
            **given,
            **head,
            "student": "timm/test_efficientnet_ln",
            "learning_rate": 0.001,
        }
        settings.append(DistillSettings(store=store, data=data, run=place / kind, **own))
    return settings, in_two_processes([("distill", settings)])


def test_two_processes_end_with_what_one_ends_with(in_two: Any, tmp_path: Path) -> None:
    settings, (first, second) = in_two
    assert first == second
    alone = [
        each.model_copy(update={"run": tmp_path / each.run.name})
        for each in settings
        if each.run.name not in DRAWS_BY_PROCESS
    ]
    distill_together(alone, Silent(), live_evaluation)
    for one in alone:
        two = next(each for each in settings if each.run.name == one.run.name)
        ours, theirs = (torch.load(each.run / "checkpoint.pt")["modules"] for each in (two, one))
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-5, msg=lambda text, at=f"{one.run.name} {name}": f"{at}: {text}")  # fmt: skip
