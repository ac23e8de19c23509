"""Students trained in two processes of torchrun, on the CPU by gloo, against one process with the same global batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill.run import distill_together
from compress_ssl.pipeline.distill.settings import DistillSettings, options_for
from compress_ssl.pipeline.recipe.live_evaluation import live_evaluation
from tests.pipeline.distill.kinds import KINDS, with_heads
from tests.slow import with_slow

Students = Callable[..., DistillSettings]

SMALL = {"student": "timm/test_efficientnet_ln"}
"""A convolutional network with layer norm; one with batch norm sees half of the batch in each process."""

OF_KINDS: dict[str, dict[str, Any]] = {
    name: {**kind, **SMALL, "learning_rate": 0.001, **({"head": "linear"} if name in ("simreg", "koleo") else {})}
    for name, kind in KINDS.items()
}
"""SimReg's and KoLeo's own head has batch norm."""

PASSES: dict[str, list[dict[str, Any]]] = {
    "two-banks": [SMALL],
    "one-bank": [{**SMALL, "objective": "compress-1q", "bank_size": 61, "prefill": True}],
    "fresh": [{**SMALL, "student_view": "fresh", "bank_size": 61, "prefill": True, "renderer": "torchvision"}],
    "in-parts": [{**SMALL, "accumulation": 4, "head": "linear", "schedule": "cosine", "teacher_memory": "mapped"}],
    # Seed 0 gives one of the eight scored images two neighbours that are equally near on some CPUs.
    "measured": [{**SMALL, "seed": 1, "live_every": 1, "keep_every": 2, "export": "key", "tensorboard": True}],
    "last-batch-kept": [
        {**SMALL, "keep_last": True},
        {**SMALL, "keep_last": True, "objective": "reg", "learning_rate": 0.001},
    ],
    "several": [SMALL, {**SMALL, "objective": "compress-1q", "student_size": 12}],
    # Gradients of 228 MB, which DDP averages in several buckets.
    "alexnet": [{"student": "alexnet-32px", "epochs": 1, "learning_rate": 0.01, "head": "linear"}],
    "two-teachers": [
        {**SMALL, "learning_rate": 0.01, "head": "linear", "store_weights": (1, 2), **kind}
        for kind in ({"prefill": True}, {"objective": "compress-1q"})
    ],
    "standardised-teachers": [
        {**SMALL, "objective": "unic", "learning_rate": 0.001, "store_weights": (1, 2), "teacher_dropping": dropping}
        for dropping in (0, 0.5)
    ],
    "patches": [
        {"student": "timm/test_vit", "learning_rate": 0.01, "patch_loss": "kl"},
        {"student": "timm/test_vit", "learning_rate": 0.01, "patch_loss": "smooth-l1", "accumulation": 2},
    ],
    "others": [OF_KINDS[name] for name in ("seed", "cc", "bingo", "retro")],
    "objectives": list(OF_KINDS.values()),
}
LARGE = {"alexnet", "objectives"}
BREAKING = [SMALL, {**SMALL, "learning_rate": 1e30}]
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
"""Of float32 sums in another order, after up to nine steps; weights are around 0.1."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def students_of(
    data: Path, store: Path, other: Path, embedded: Callable[..., Path], place: Path, tiny: dict[str, Any]
) -> Callable[[str, str], list[DistillSettings]]:
    patched = embedded(teacher="random/timm/test_vit", size=32, resize=36, patches=5)
    even = embedded(teacher="random/conv4-32", limit=28)  # two ranks divide its last batch of four

    def inputs(given: dict[str, Any]) -> dict[str, Any]:
        first = patched if "patch_loss" in given else even if "keep_last" in given else store
        shared = {"store": first, **options_for(tiny, given.get("objective"))}
        return shared | ({"also_store": (other,)} if "store_weights" in given else {})

    def make(kind: str, where: str, **more: Any) -> list[DistillSettings]:
        return [
            DistillSettings(
                data=data,
                run=place / where / f"{kind}-{number}",
                **with_heads(place, {**inputs(given), **given, **more}),
            )
            for number, given in enumerate(PASSES.get(kind, BREAKING))
        ]

    return make


@pytest.mark.parametrize("kind", with_slow(PASSES, LARGE))
def test_two_processes_end_with_the_weights_banks_and_metrics_of_one(
    in_two_processes: Any, students_of: Any, metrics: Any, kind: str
) -> None:
    ((first,), (second,)) = in_two_processes([("distill", students_of(kind, "two"))])
    assert first == second  # hashes of what each holds in the end
    with_bank = [any(name.endswith("teacher_bank.rows") for name in state) for state in first]
    assert all(with_bank) or kind in ("others", "objectives", "standardised-teachers", "last-batch-kept")
    both = list(zip(students_of(kind, "one"), students_of(kind, "two"), strict=True))
    both = [(one, two) for one, two in both if not draws(one)]
    distill_together([one for one, _ in both], Silent(), live_evaluation)
    for one, two in both:
        assert_close(load_file(two.run / "model.safetensors"), load_file(one.run / "model.safetensors"))
        ours, theirs = (torch.load(each.run / "checkpoint.pt") for each in (two, one))
        assert_close(ours["modules"], theirs["modules"])
        assert ours["epoch"] == theirs["epoch"]
        assert ours["best"] == pytest.approx(theirs["best"])
        for mine, theirs in zip(metrics(two.run), metrics(one.run), strict=True):
            assert mine == pytest.approx(theirs, rel=1e-4)
        assert {path.name for path in two.run.iterdir()} == {path.name for path in one.run.iterdir()}


def test_student_that_breaks_is_dropped_by_both_processes_and_named_by_one(
    in_two_processes: Any, students_of: Any, place: Path
) -> None:
    both = in_two_processes([("distill", students_of("breaking", "two"))])
    ends = sorted((end for (end,) in both), key=lambda end: end.startswith("told by another: "))
    assert "breaking-1' is no longer finite" in ends[0]
    assert ends[1] == f"told by another: {ends[0]}"
    (alone,) = distill_together(students_of("two-banks", "alone"), Silent())
    assert_close(load_file(place / "two" / "breaking-0" / "model.safetensors"), load_file(alone))
    assert not (place / "two" / "breaking-1" / "model.safetensors").exists()


def draws(student: DistillSettings) -> bool:
    """True if each rank draws what its images are compared with: negatives, or the teachers that are kept."""
    drops_teachers = student.objective == "unic" and len(student.stores) > 1 and student.teacher_dropping > 0
    return student.objective == "crd" or drops_teachers


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")
