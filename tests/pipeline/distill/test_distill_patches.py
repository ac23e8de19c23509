"""distill --patch-loss: resumed, by several teachers, in one pass with others, in every memory; and what is refused."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill.run import distill_together
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.distill.teacher_views import TeacherViews, ViewSchedule, bytes_of_views
from compress_ssl.pipeline.recipe.live_evaluation import live_evaluation
from compress_ssl.storage import open_store
from compress_ssl.storage.patches import dequantise

PATCHES: dict[str, Any] = {"teacher": "random/timm/test_vit", "size": 32, "resize": 36, "patches": 5}

Students = Callable[..., DistillSettings]
Trained = Callable[..., dict[str, Tensor]]
Same = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], None]


@pytest.fixture(scope="session")
def patched(embedded: Callable[..., Path]) -> Path:
    return embedded(**PATCHES)


@pytest.mark.parametrize("loss", ["kl", "smooth-l1"])
def test_a_killed_student_of_patches_is_resumed_bit_for_bit(
    patched: Path, loss: str, student: Students, trained: Trained, assert_same: Same, killed_after: Any, metrics: Any
) -> None:
    settings = {"store": patched, "objective": "compress-2q", "patch_loss": loss, "accumulation": 2}
    whole = trained("whole", **settings)
    killed_after(4, [student("half", **settings)])
    assert_same(whole, trained("half", **settings, resume=True))
    lines = metrics(student("whole").run)
    assert all(line["loss"] > line["patch_loss"] > 0 for line in lines if "loss" in line)


def test_a_student_is_not_resumed_on_patches_of_another_basis(
    patched: Path, embedded: Callable[..., Path], student: Students, trained: Trained, killed_after: Any, tmp_path: Path
) -> None:
    store = tmp_path / "store.zarr"
    shutil.copytree(patched, store)
    settings = {"store": store, "objective": "reg", "patch_loss": "kl"}
    killed_after(2, [student("half", **settings)])
    shutil.rmtree(store)
    shutil.copytree(embedded(**{**PATCHES, "patch_grid": 1}), store)
    with pytest.raises(InputError, match="patches"):
        trained("half", **settings, resume=True)


def test_every_memory_holds_the_same_patches(patched: Path, student: Students, tmp_path: Path) -> None:
    split = open_store(patched)["train"]
    assert bytes_of_views(split, 1, patches=True) == 29 * (2 * 64 + 4 * (5 + 2))
    rows = np.array([3, 28, 0])
    for memory in ("device", "host", "mapped"):
        settings = student(memory, store=patched, teacher_memory=memory, scratch=tmp_path)
        views = TeacherViews(split, ViewSchedule(2), settings, torch.device("cpu"), patches=True)
        found = views.view_of_epoch(1).gather_patches(rows, torch.device("cpu"))
        assert found is not None
        np.testing.assert_array_equal(found.numpy(), dequantise(*split.patch_view(2))[rows])
        views.close()


def test_patches_in_one_pass_with_a_student_of_none(
    patched: Path, student: Students, trained: Trained, assert_same: Same
) -> None:
    kinds: dict[str, dict[str, Any]] = {"kl": {"patch_loss": "kl"}, "none": {}, "l1": {"patch_loss": "smooth-l1"}}
    alone = [trained(f"{name}-alone", store=patched, objective="reg", **kind) for name, kind in kinds.items()]
    together = [student(name, store=patched, objective="reg", **kind) for name, kind in kinds.items()]
    for one, model in zip(alone, distill_together(together, Silent(), live_evaluation), strict=True):
        assert_same(one, load_file(model))
    assert not all(torch.equal(value, alone[1][name]) for name, value in alone[0].items())


def test_several_teachers_each_have_a_loss_on_patches(
    patched: Path, embedded: Callable[..., Path], student: Students, trained: Trained, metrics: Any
) -> None:
    second = embedded(**{**PATCHES, "teacher": "random/resnet18", "patches": 7, "patch_grid": 1})
    trained("both", store=patched, also_store=(second,), store_weights=(1, 3), objective="reg", patch_loss="smooth-l1")
    line = next(line for line in metrics(student("both").run) if "loss" in line)
    assert line["patch_loss"] == pytest.approx((line["patch_loss_1"] + 3 * line["patch_loss_2"]) / 4, rel=1e-5)


def test_stores_and_views_without_patches_are_refused(
    patched: Path, store: Path, embedded: Callable[..., Path], trained: Trained
) -> None:
    with pytest.raises(InputError, match="has no patches, and --patch-loss learns them"):
        trained("none", store=store, patch_loss="kl")
    one = embedded(**PATCHES, patch_views=1)
    with pytest.raises(
        InputError, match=r"View 2 of .* is replayed, and has no patches, .* 0, 1; train on those with --views 1"
    ):
        trained("one", store=one, patch_loss="kl")
    trained("first", store=one, patch_loss="kl", views=1, objective="reg", epochs=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"patch_weight": 2.0}, "--patch-weight does nothing without --patch-loss"),
        ({"patch_loss": "kl", "student_view": "fresh"}, "--patch-loss compares positions of one view"),
    ],
)
def test_options_that_do_nothing_are_refused(student: Students, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        student(**given)
