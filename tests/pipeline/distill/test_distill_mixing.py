"""Students of mixed views: the teacher's pixels at every size, several teachers, and what has no mixed target."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from pydantic import ValidationError
from torch import Tensor

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill.inputs import check_same_views, match_rows
from compress_ssl.pipeline.distill.replay import Replay
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.distill.teacher_views import TeacherViews, ViewSchedule
from compress_ssl.pipeline.evaluate.run import evaluate
from compress_ssl.pipeline.evaluate.settings import LinearSettings
from compress_ssl.pipeline.images.parameters import resized_parameters
from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.images.rendering import RenderJob, render
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.storage import open_store
from compress_ssl.storage.parameters import COLUMNS, MIX_COLUMN
from tests.reliability.hostile_augmentation import forge

Embed = Callable[..., Path]
Trained = Callable[..., dict[str, Tensor]]
ROW = MIX_COLUMN["mix_row"]
BOTH = {"mixup": 0.5, "cutmix": 0.4}


@pytest.fixture(scope="module")
def mixed(embedded: Embed) -> Path:
    """Two mixed views of ``train``, both kinds; the hashes of all that the teacher saw are beside it."""
    return embedded(policy=BOTH, pixel_hashes=10**6)


@pytest.mark.parametrize("renderer", ["dali", "torchvision"])
def test_the_student_sees_the_teachers_pixels_and_smaller_ones_of_the_same_mixture(
    embedded: Embed, mixed: Path, student: Callable[..., DistillSettings], data: Path, renderer: str
) -> None:
    place = mixed if renderer == "dali" else embedded(policy=BOTH, pixel_hashes=10**6, renderer=renderer)
    split = open_store(place)["train"]
    lines = map(json.loads, place.with_name(f"{place.name}.pixel-hashes.jsonl").read_text().splitlines())
    teachers = {(line["view"], line["row"]): line["xxh3_128"] for line in lines if line["split"] == "train"}
    source, seen = open_source(data, "train", data.parent / "index"), 0
    torch_renderer = make_renderer(renderer, torch.device("cpu"), 1)
    views = TeacherViews(split, ViewSchedule(2), student(), torch.device("cpu"))
    for sizes in ((16,), (12, 16)):
        replay = Replay(split, source, torch_renderer, (views,), sizes, 28, 4, 0, ViewSchedule(2), None)
        for epoch in (0, 1):
            small = unmixed(torch_renderer, split, source, 1 + epoch, 12)
            parameters = split.augmentation(1 + epoch)
            for batch in replay.batches(epoch, 0):
                for place_in_batch, row in enumerate(batch.rows.tolist()):
                    pixels = batch.pixels[16][place_in_batch].numpy()
                    assert xxhash.xxh3_128_hexdigest(pixels.tobytes()) == teachers[1 + epoch, row]
                    seen += 1
                    if 12 in sizes:
                        expected = mixture(small, row, parameters[row], 12)
                        np.testing.assert_array_equal(batch.pixels[12][place_in_batch].numpy(), expected)
    views.close()
    assert seen == 2 * 2 * 28


def unmixed(renderer: Any, split: Any, source: Any, view: int, side: int) -> Any:
    """Every image of a view alone, at another size."""
    rows = np.arange(len(split))
    plain = resized_parameters(split.augmentation(view)[:, : len(COLUMNS)], 16, side)
    job = RenderJob.of(source, split.samples, rows, parameters=plain[:, None], sizes=(side,), view=split.views[view])
    return torch.cat([views[0] for views in render(renderer, job, 7)]).numpy().astype(int)


def mixture(images: Any, row: int, parameters: Any, side: int) -> Any:
    """An image and its second one, pixel by pixel."""
    other, share, left, top, width, height = parameters[ROW:].astype(int).tolist()
    result = images[row].copy()
    for y in range(side) if other >= 0 else ():
        for x in range(side):
            inside = [
                np.floor(begin * side / 256 + 0.5) <= place < np.floor((begin + length) * side / 256 + 0.5)
                for place, begin, length in ((x, left, width), (y, top, height))
            ]
            if all(inside):
                result[y, x] = (images[row, y, x] * share + images[other, y, x] * (256 - share) + 128) // 256
    return result.astype(np.uint8)


@pytest.mark.parametrize("objective", ["compress-2q", "compress-1q", "seed", "simreg", "reg", "crd"])
def test_objectives_learn_from_mixed_views_without_a_warning(
    trained: Trained, mixed: Path, objective: str, caplog: pytest.LogCaptureFixture
) -> None:
    bank = {"mask_own": True} if objective in ("compress-2q", "compress-1q", "seed") else {}
    options = {"negatives": 20, "negative_queue": 25} if objective == "crd" else bank
    weights = trained(store=mixed, objective=objective, epochs=2, **options)
    assert all(torch.isfinite(each).all() for each in weights.values())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING and "canar" in record.message]


@pytest.mark.parametrize("objective", ["cc", "crd"])
def test_an_objective_whose_targets_belong_to_one_image_is_refused(
    trained: Trained, mixed: Path, tmp_path: Path, objective: str
) -> None:
    options = {"clusters": 4} if objective == "cc" else {"negatives": 20}
    with pytest.raises(InputError, match=rf"View 1 of .* mixes two images, and the targets of --objective {objective}"):
        trained(store=mixed, objective=objective, **options)
    assert not (tmp_path / "student").exists()
    trained(store=mixed, objective=objective, student_view="fresh", epochs=1, **options)  # of view 0


def test_two_students_of_two_sizes_in_one_pass_are_those_of_separate_runs(
    student: Callable[..., DistillSettings], trained: Trained, mixed: Path, assert_same: Any, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    from compress_ssl.pipeline.distill.run import distill_together

    pair = [student("large", store=mixed), student("small", store=mixed, student_size=12)]
    for path, alone in zip(distill_together(pair, Silent()), ({}, {"student_size": 12}), strict=True):
        assert_same(load_file(path), trained(f"alone-{len(alone)}", store=mixed, **alone))


def test_a_second_store_in_another_order_names_the_same_second_images(
    trained: Trained, mixed: Path, embedded: Embed, rearranged: Callable[..., Path], assert_same: Any
) -> None:
    second = embedded(policy=BOTH, teacher="random/conv4-32")
    order = np.random.default_rng(0).permutation(29)
    permuted = rearranged("permuted.zarr", second, order.tolist())
    ours, theirs = open_store(mixed)["train"], open_store(permuted)["train"]
    with pytest.raises(InputError, match="mix_row differs"):  # its rows are not yet those of its own images
        check_same_views(ours, theirs, match_rows(ours, theirs), [1])
    place_of = np.append(np.argsort(order), -1)  # the last is that of no row
    for view in (0, 1, 2):
        before = open_store(second)["train"].augmentation(view)[order, ROW].astype(int)
        forge(permuted, "augmentation", (view, slice(None), ROW), place_of[before].astype(np.float32))
    expected = trained("in-order", store=mixed, also_store=(second,))
    assert_same(trained("permuted", store=mixed, also_store=(permuted,)), expected)


def test_teachers_of_other_sizes_see_the_same_mixture(trained: Trained, mixed: Path, embedded: Embed) -> None:
    larger = embedded(policy=BOTH, size=24, resize=27)
    trained(store=mixed, also_store=(larger,), epochs=2)
    with pytest.raises(InputError, match="describes views by other columns"):
        trained("plain", store=mixed, also_store=(embedded(),))


def test_mixing_is_refused_where_no_teacher_has_seen_it(
    student: Callable[..., DistillSettings], mixed: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValidationError, match="need a teacher's embedding of the mixed images"):
        student(store=mixed, student_view="fresh", policy="crop-flip+mixup")
    with pytest.raises(InputError, match="has views of two mixed images, which have no class of their own"):
        evaluate(LinearSettings(model=str(mixed), output=tmp_path / "linear", threads=1, device="cpu"), Silent())
