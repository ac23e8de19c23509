"""What students see: replayed views, fresh ones, and smaller ones of the same crop."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from PIL import Image
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill.replay import Replay, ReplayBatch
from compress_ssl.pipeline.distill.run import distill
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.distill.task import DistillTask, build_student
from compress_ssl.pipeline.distill.teacher_views import TeacherViews, ViewSchedule
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.evaluate.run import evaluate
from compress_ssl.pipeline.evaluate.settings import KnnSettings
from compress_ssl.pipeline.images.policies import POLICIES, Policy
from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.pipeline.networks.network import load_network, save_network
from compress_ssl.storage import open_store
from compress_ssl.storage.errors import StoreIncompleteError
from tests.gpu.parts.photographs import photograph, save

Students = Callable[..., DistillSettings]
Trained = Callable[..., dict[str, Tensor]]
MakeReplay = Callable[..., Replay]


@pytest.fixture
def replay(data: Path, store: Path, student: Students) -> Iterator[MakeReplay]:
    """The stage's stream of images: 28 of 29 images, 7 batches of 4 an epoch."""
    banks = []

    def make(
        policy: Policy | None = None, sizes: tuple[int, ...] = (16,), seed: int = 0, of: Path = store, images: int = 28
    ) -> Replay:
        split = open_store(of)["train"]
        numbers = ViewSchedule(0 if policy else 2)
        banks.append(TeacherViews(split, numbers, student(), torch.device("cpu")))
        renderer = make_renderer("dali", torch.device("cpu"), 1)
        source = open_source(data, "train", data.parent / "index")
        return Replay(split, source, renderer, (banks[-1],), sizes, images, 4, seed, numbers, policy)

    yield make
    for bank in banks:
        bank.close()


def epoch_of(replay: Replay, epoch: int) -> list[ReplayBatch]:
    return list(replay.batches(epoch, 0))


def test_epochs_read_the_views_in_turn_and_see_every_crop_of_the_store(
    replay: MakeReplay, store: Path, data: Path
) -> None:
    made, group = replay(sizes=(16, 12)), zarr.open_group(store, mode="r")["train"]
    columns = list(group["augmentation"].attrs["columns"])
    for epoch, view in enumerate((1, 2, 1)):
        batches = epoch_of(made, epoch)
        seen = torch.cat([batch.rows for batch in batches]).tolist()
        assert len(seen) == len(set(seen)) == 28
        for batch in batches:
            rows = batch.rows.tolist()
            stored = torch.from_numpy(group["embeddings"][view][rows]).float()
            assert torch.equal(batch.teacher_embeddings[0], stored)
            for place, row in enumerate(rows):
                value = dict(zip(columns, group["augmentation"][view, row].tolist(), strict=True))
                box = [int(value[name]) for name in ("crop_top", "crop_left", "crop_height", "crop_width")]
                image = Image.open(data / "train" / str(group["sample_path"][row]))
                for side in (16, 12):
                    expected = F.resized_crop(image, *box, [side, side], antialias=True)
                    expected = np.asarray(F.hflip(expected) if value["flip"] else expected).astype(int)
                    difference = abs(batch.pixels[side][place].numpy() - expected)
                    assert difference.max() <= 8
                    assert difference.mean() < 1
    assert len(batches) == 7
    assert torch.equal(torch.cat([batch.rows for batch in made.batches(2, 3)]), torch.tensor(seen[12:]))


def test_smaller_last_batch_has_the_images_left_over(replay: MakeReplay) -> None:
    batches = epoch_of(replay(images=29), 0)
    assert [len(batch.rows) for batch in batches] == [4] * 7 + [1]
    assert sorted(torch.cat([batch.rows for batch in batches]).tolist()) == list(range(29))
    assert [len(batch.pixels[16]) for batch in batches] == [4] * 7 + [1]
    (last,) = replay(images=29).before(1, 0, 3)  # the bank holds them too
    assert last.rows.tolist() == torch.cat([batch.rows for batch in batches]).tolist()[-3:]


@pytest.fixture(scope="module")
def bicubic_store(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of a teacher that wants its images resized bicubically."""
    folder = tmp_path_factory.mktemp("bicubic")
    teacher = load_network("random/conv4-32")
    save_network(
        folder / "teacher.safetensors",
        replace(teacher, preprocessing=replace(teacher.preprocessing, interpolation="bicubic")),
    )
    embed(
        EmbedSettings(data=data, store=folder / "teacher.zarr", teacher=str(folder / "teacher.safetensors"), size=16,
                      resize=18, views=2, threads=1, device="cpu"),
        Silent(),
    )  # fmt: skip
    return folder / "teacher.zarr"


def test_views_of_a_bicubic_store_are_bicubic_at_every_side(
    replay: MakeReplay, bicubic_store: Path, data: Path
) -> None:
    split = open_store(bicubic_store)["train"]
    for batch in epoch_of(replay(sizes=(16, 12), of=bicubic_store), 0):
        for place, row in enumerate(batch.rows.tolist()):
            value = dict(zip(split.columns, split.augmentation(1)[row].tolist(), strict=True))
            box = [int(value[name]) for name in ("crop_top", "crop_left", "crop_height", "crop_width")]
            image = Image.open(data / "train" / split.samples.sample_path[row])
            for side in (16, 12):
                expected = F.resized_crop(image, *box, [side, side], InterpolationMode.BICUBIC, antialias=True)
                expected = np.asarray(F.hflip(expected) if value["flip"] else expected).astype(int)
                assert abs(batch.pixels[side][place].numpy() - expected).mean() < 1


def test_student_of_a_bicubic_store_is_evaluated_bicubically_while_it_trains_and_afterwards(
    trained: Trained, bicubic_store: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained(store=bicubic_store, student_size=12, live_every=3, live_images=1000)
    assert not [message for message in caplog.messages if "canaries" in message]
    assert load_network(str(tmp_path / "student")).preprocessing.interpolation == "bicubic"
    features = embed(
        EmbedSettings(data=data, store=tmp_path / "features.zarr", teacher=str(tmp_path / "student"), threads=1,
                      split=("train:0", "val:0")),
        Silent(),
    )  # fmt: skip
    assert features["val"].views[0]["interpolation"] == "bicubic"
    lines = [json.loads(line) for line in (tmp_path / "student" / "metrics.jsonl").read_text().splitlines()]
    known, asked = (functional.normalize(torch.from_numpy(features[name].view(0)).float()) for name in ("train", "val"))
    nearest = (asked @ known.T).argmax(dim=1).numpy()
    right = features["train"].samples.label[nearest] == features["val"].samples.label
    assert [line["nn_top1_percent"] for line in lines if "nn_top1_percent" in line] == [100 * right.mean()]


def test_fresh_views_are_new_every_epoch_the_same_every_time_and_not_the_stores(
    replay: MakeReplay, store: Path
) -> None:
    fresh = replay(POLICIES["crop-flip"])
    by_row = [
        {int(row): batch.pixels[16][place] for batch in epoch_of(made, epoch) for place, row in enumerate(batch.rows)}
        for made, epoch in ((fresh, 0), (fresh, 1), (replay(POLICIES["crop-flip"]), 1), (replay(), 0), (replay(), 1))
    ]
    first, second, second_again, store_first, store_second = by_row
    for row in set.intersection(*map(set, by_row)):
        assert torch.equal(second[row], second_again[row])
        different = (first[row], second[row], store_first[row], store_second[row])
        assert len({pixels.numpy().tobytes() for pixels in different}) == 4
    another = epoch_of(replay(POLICIES["crop-flip"], seed=1), 0)
    other_seed = {int(row): batch.pixels[16][place] for batch in another for place, row in enumerate(batch.rows)}
    assert not any(torch.equal(first[row], other_seed[row]) for row in first.keys() & other_seed.keys())


def test_teacher_of_fresh_views_is_that_of_view_0(replay: MakeReplay, store: Path) -> None:
    fresh, view_0 = replay(POLICIES["crop-flip"]), zarr.open_group(store, mode="r")["train"]["embeddings"][0]
    for epoch in (0, 1, 2):
        for batch in epoch_of(fresh, epoch):
            stored = torch.from_numpy(view_0[batch.rows.tolist()]).float()
            assert torch.equal(batch.teacher_embeddings[0], stored)


def test_objectives_get_embeddings_of_unit_length_unless_they_declare_otherwise(
    replay: MakeReplay, student: Students, store: Path
) -> None:
    made = replay()
    batch = epoch_of(made, 0)[0]
    stored = torch.from_numpy(open_store(store)["train"].view(1)[batch.rows.numpy()]).float()
    for name, of_unit_length in (("compress-1q", True), ("reg", True), ("crd", False), ("unic", False)):
        settings = student(objective=name, accumulation=2)
        task = DistillTask(settings, build_student(settings, made.split, 16), made, [0], [], torch.device("cpu"), None)
        passed = torch.cat([part.teacher_embeddings for (part,) in task.micro_batches(batch)])
        expected = stored / stored.norm(dim=1, keepdim=True) if of_unit_length else stored
        torch.testing.assert_close(passed, expected)


def test_images_before_a_step_are_those_that_were_seen(replay: MakeReplay) -> None:
    made = replay()
    seen = [(1 + epoch % 2, int(row)) for epoch in range(3) for batch in epoch_of(made, epoch) for row in batch.rows]
    for epoch, step, count in ((0, 0, 5), (0, 3, 5), (0, 3, 50), (1, 0, 28), (1, 0, 29), (1, 2, 10), (2, 6, 61)):
        end = (7 * epoch + step) * 4
        found = [(each.view, int(row)) for each in made.before(epoch, step, count) for row in each.rows]
        assert found == seen[max(0, end - count) : end]
        assert all(len(each.rows) for each in made.before(epoch, step, count))  # reading a view for nothing takes time


def test_banks_are_filled_with_whole_batches_of_different_images(replay: MakeReplay) -> None:
    made = replay()
    for count, expected in ((1, [4]), (28, [28]), (29, [28, 4]), (60, [28, 28, 4])):
        stretches = made.to_prefill(count)
        assert [len(stretch.rows) for stretch in stretches] == expected
        assert [stretch.view for stretch in stretches] == [1, 2, 1][: len(expected)]
        assert all(len(set(stretch.rows.tolist())) == len(stretch.rows) for stretch in stretches)
        for images, (embeddings, rows) in zip(made.images(stretches), made.embeddings(0, stretches), strict=True):
            torch.testing.assert_close(images.teacher_embeddings[0], embeddings, rtol=0, atol=0)
            assert torch.equal(images.rows, rows)


def test_fresh_training_is_reproducible_and_the_policy_counts(trained: Trained, assert_same: Any) -> None:
    first = trained("first", student_view="fresh")
    assert_same(trained("again", student_view="fresh", policy="crop-flip"), first)
    other = trained("other", student_view="fresh", policy="moco-v2")
    assert not torch.equal(other["0.weight"], first["0.weight"])


@pytest.mark.parametrize("given", [{}, {"student_view": "fresh"}])
def test_views_of_images_that_are_decoded_smaller_are_those_of_smaller_images(
    trained: Trained, embedded: Callable[..., Path], assert_same: Any, tmp_path: Path, given: dict[str, Any]
) -> None:
    for number in range(9):
        image = photograph(number, 135, 130 + number)
        save(tmp_path / "large" / "train" / f"{number}.png", image)
        save(tmp_path / "small" / "train" / f"{number}.png", image.reduce(4))
    stores = {
        name: embedded(data=tmp_path / name, split=("train:2",), scaled_decoding=name == "large")
        for name in ("large", "small")
    }
    small, large = (
        trained(f"of-{name}", store=stores[name], data=tmp_path / name, **given) for name in ("small", "large")
    )
    assert_same(small, large)


def test_store_without_random_views_is_enough_for_fresh_ones(trained: Trained, store: Path, data: Path) -> None:
    alone = data.parent / "view-0.zarr"
    embed(
        EmbedSettings(data=data, store=alone, teacher="random/conv4-32", seed=5, size=16, resize=18, views=1,
                      split=("train:0",), threads=1, device="cpu"),
        Silent(),
    )  # fmt: skip
    assert trained(store=alone, student_view="fresh").keys()
    with pytest.raises(
        InputError, match=r"has the evaluation view alone; .*--views, or train with --student-view fresh"
    ):
        trained("replayed", store=alone)


def test_options_that_do_not_go_together_are_refused(student: Students) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"policy": "crop-flip"}, "--policy applies to fresh views, .* add --student-view fresh"),
        ({"student_view": "fresh", "views": 1}, "--views applies to replayed views, .* leave it out"),
        ({"accumulation": 3}, "--accumulation 3 must divide --batch-size 8"),
        (
            {"accumulation": 2, "keep_last": True},
            "--keep-last keeps a smaller last batch, which --accumulation may not",
        ),
        ({"export": "key", "objective": "compress-1q"}, "--export key needs a key encoder, .* use compress-2q"),
        (
            {"head": "mlp", "accumulation": 8},
            "--head mlp has batch norm, .* raise --batch-size or lower --accumulation",
        ),
        ({"objective": "reg-bn", "accumulation": 8}, "--objective reg-bn has batch norm, .* raise --batch-size"),
        ({"objective": "simreg", "accumulation": 8}, "--head mlp has batch norm, .* raise --batch-size"),
        (
            {"objective": "reg", "temperature": 0.04},
            "--temperature does nothing for reg; leave it out, or use compress-2q, ",
        ),
        ({"objective": "compress-1q", "key_momentum": 0.9}, "--key-momentum does nothing .*, or use compress-2q"),
        ({"objective": "crd", "head": "mlp"}, "--head does nothing for crd; leave it out"),
        ({"standardisation": "phi-s"}, "--standardisation does nothing for compress-2q; leave it out, or use unic"),
        ({"objective": "unic", "teacher_dropping": 0.2}, "--teacher-dropping chooses among several teachers; add --al"),
        ({"objective": "seed", "anchors": "random"}, "--anchors does nothing for seed; .* or use compress-1q"),
        (
            {"objective": "compress-1q", "anchors": "random", "prefill": True},
            "--prefill fills a queue, .* leave it out",
        ),
        ({"objective": "compress-1q", "anchors": "k-means", "mask_own": True}, "--mask-own needs .* leave it out"),
        ({"seed": 2**64}, "less than 18446744073709551616"),
    ]
    for given, sentence in cases:
        with pytest.raises(ValidationError, match=sentence):
            student(**given)


def test_more_views_than_the_store_has_or_has_finished_are_refused(
    trained: Trained, store: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"--views 3 is set, but '.*teacher.zarr' has 2 random views"):
        trained(views=3)
    shutil.copytree(store, tmp_path / "half.zarr")
    (tmp_path / "half.zarr" / "train" / "embeddings" / "commits" / "2.json").unlink()
    with pytest.raises(
        StoreIncompleteError, match=r"View 2 of split train .* not complete; .* train on fewer with --views"
    ):
        trained(store=tmp_path / "half.zarr")
    assert not (tmp_path / "student").exists()
    assert trained(store=tmp_path / "half.zarr", views=1).keys()


def test_batch_larger_than_the_split_is_refused(trained: Trained) -> None:
    with pytest.raises(InputError, match=r"--batch-size 30 is more than the 29 good images of split train"):
        trained(batch_size=30)


def test_image_that_is_missing_is_named_before_training(trained: Trained, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "train" / "apple" / "004.png").unlink()
    with pytest.raises(InputError, match=r"row 4 of split train, 'apple/004.png', is not in '.*data.train'"):
        trained(data=tmp_path / "data")
    assert not (tmp_path / "student").exists()


def test_auto_is_the_renderer_of_the_store(
    trained: Trained, embedded: Callable[..., Path], assert_same: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = embedded(renderer="torchvision")
    given = {"store": store, "epochs": 1}
    named = trained("named", renderer="torchvision", **given)
    caplog.clear()
    assert_same(trained("auto", renderer="auto", **given), named)
    assert "other pixels" not in caplog.text
    trained("dali", renderer="dali", **given)
    assert "other pixels" in caplog.text
    with pytest.raises(InputError, match=r"inputs\.renderer = 'torchvision', now it is 'dali'"):
        trained("auto", renderer="auto", resume=True, **{**given, "store": embedded(renderer="dali")})


def test_smaller_student_says_what_it_wants_and_is_evaluated_on_it(
    student: Students, trained: Trained, data: Path, tmp_path: Path
) -> None:
    trained(student_size=12)
    wants = load_network(str(tmp_path / "student")).preprocessing
    assert (wants.size, wants.resize) == (12, round(18 * 12 / 16))
    result = evaluate(
        KnnSettings(model=str(tmp_path / "student"), data=data, threads=1, device="cpu", neighbours=(2,)), Silent()
    )
    assert open_store(tmp_path / "student" / "features.zarr")["val"].views[0]["size"] == 12
    assert 0 <= result.result.scores()["NN"] <= 100
    with pytest.raises(
        InputError, match=r"--student-size 17 is larger than the 16 pixels of the views in '.*teacher.zarr'"
    ):
        distill(student("larger", student_size=17), Silent())
