"""Linear evaluation from a teacher's store and of a network: stored and live views, ten crops, what is refused."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import normalize

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress, Silent
from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.evaluate.feature_source import FeatureSource
from compress_ssl.pipeline.evaluate.features import Features, StoredFeatures
from compress_ssl.pipeline.evaluate.linear.batches import LiveViews, StoredViews
from compress_ssl.pipeline.evaluate.linear.classifier import fit, fit_standardisation
from compress_ssl.pipeline.evaluate.linear.evaluate import UNFINISHED_FILE, LinearResult, logistic_regression_accuracy
from compress_ssl.pipeline.evaluate.run import Evaluated, evaluate
from compress_ssl.pipeline.evaluate.settings import LinearSettings
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.pipeline.networks.network import load_network, save_network
from compress_ssl.storage import open_store
from compress_ssl.storage.errors import StoreError

MACHINE: dict[str, Any] = {"size": 16, "resize": 17, "device": "cpu", "threads": 1, "renderer": "torchvision"}
QUICK: dict[str, Any] = {**MACHINE, "epochs": 3, "views": 2, "classifier_batch_size": 8, "learning_rate": 0.1}


def run_of(data: Path, seed: int = 0) -> Path:
    folder = data.parent / "student"
    folder.mkdir(exist_ok=True)
    save_network(folder / MODEL_FILE, load_network("random/conv4-16", seed))
    return folder


def settings_of(model: Path | str, **given: Any) -> LinearSettings:
    values = {**QUICK, **given}
    return LinearSettings(model=str(model), **{name: value for name, value in values.items() if value is not None})


def score(model: Path | str, progress: Progress | None = None, **given: Any) -> Evaluated:
    return evaluate(settings_of(model, **given), progress or Silent())


def test_teacher_is_scored_from_its_store_with_no_image_left(data: Path, teacher: Path) -> None:
    shutil.rmtree(data)
    evaluated = score(teacher, lr_grid=(0.01, 0.1), size=None, resize=None)
    result = evaluated.result
    assert isinstance(result, LinearResult)
    assert (result.train_images, result.test_images, result.classes, result.views) == (30, 12, 2, 2)
    assert set(result.held_out_top1_percent) == {0.01, 0.1}
    assert result.learning_rate in (0.01, 0.1)
    record = json.loads(evaluated.path.read_text())
    assert evaluated.path == data.parent / "teacher.zarr.evaluation" / "linear.json"
    assert record["scores"] == {
        "Linear": result.top1_percent,
        "Logistic regression": result.logistic_regression_top1_percent,
    }


def views_of(model: Path, data: Path, epochs: int, **given: Any) -> tuple[StoredViews, LiveViews, LinearSettings]:
    """A store with as many views as epochs, and the same views rendered again."""
    settings = settings_of(model, data=data, epochs=epochs, views=epochs, precision="float32", batch_size=3, **given)
    source = FeatureSource(settings, Silent())
    store = source.views(epochs, settings.policy)
    split = store["train"]
    stored = StoredViews(
        lambda view: StoredFeatures("training", split, view).in_memory().features,
        epochs,
        split.samples.label[split.samples.good],
    )
    images = open_source(data, "train", data.parent / "index")
    return stored, LiveViews(split, images, source.network, source.renderer, "float32"), settings


def test_live_features_are_those_of_a_store_with_as_many_views_as_epochs(data: Path) -> None:
    (data / "train" / "apple" / "03.png").write_bytes(b"nothing")
    (data / "train" / "apple" / "16.png").symlink_to(data / "train" / "apple" / "01.png")
    stored, live, settings = views_of(run_of(data), data, epochs=3, on_bad_image="skip")
    np.testing.assert_array_equal(stored.labels, live.labels)
    told: list[int] = []
    rows = np.arange(0, 30, 2)
    for ours, theirs in zip(
        live.epochs(rows, 1, settings, "cpu", told.append),
        stored.epochs(rows, 1, settings, "cpu", lambda images: None),
        strict=True,
    ):
        for rendered, read in zip(ours, theirs, strict=True):
            assert torch.equal(rendered.labels, read.labels)
            torch.testing.assert_close(normalize(rendered.features), read.features.float(), rtol=1e-3, atol=1e-5)
    assert sum(told) == 2 * len(rows)


def test_live_and_stored_train_the_same_classifier_on_the_same_views(data: Path) -> None:
    stored, live, settings = views_of(run_of(data), data, epochs=3, limit=16)
    view_0 = stored.read(0)
    standardise = fit_standardisation([view_0])
    fitted = [fit(views, view_0.__getitem__, standardise, 2, settings, Silent()) for views in (stored, live)]
    first, second = (each.classifiers.parameters for each in fitted)
    torch.testing.assert_close(first, second, rtol=0, atol=5e-3)
    assert (first - second).abs().max() < 0.02 * (first - first[:, :, [1, 0]]).abs().max()


class Interrupting:
    """A progress bar after which a training is killed, having rendered so many images; it counts them."""

    def __init__(self, after: int | None = None) -> None:
        self.images, self._after = 0, after
        self.resumed: list[int] = []

    @contextlib.contextmanager
    def track(self, title: str, total: int, unit: str = "images") -> Iterator[Callable[[int], None]]:
        first = True

        def advance(amount: int) -> None:
            nonlocal first
            if title != "linear classifier":
                return
            if first:
                self.resumed.append(amount)
                first = False
                return
            self.images += amount
            if self.images == self._after:
                raise KeyboardInterrupt

        yield advance


def test_a_live_training_that_was_killed_goes_on_with_its_last_whole_epoch(data: Path) -> None:
    run = run_of(data)
    whole = score(run, data=data, features="live", views=None, epochs=4).result
    assert whole.views == 4
    (run / "linear.json").unlink()
    killed, again = Interrupting(after=30 + 30 + 8), Interrupting()
    with pytest.raises(KeyboardInterrupt):
        score(run, killed, data=data, features="live", views=None, epochs=4)
    assert (run / UNFINISHED_FILE).is_file()
    assert not (run / "linear.json").exists()
    shutil.copy(run / UNFINISHED_FILE, data.parent / "kept")
    resumed = score(run, again, data=data, features="live", views=None, epochs=4).result
    assert (again.resumed, again.images) == ([60], 60)
    assert resumed == whole
    assert not (run / UNFINISHED_FILE).exists()
    shutil.copy(data.parent / "kept", run / UNFINISHED_FILE)
    other = Interrupting()
    score(run, other, data=data, features="live", views=None, epochs=4, learning_rate=0.2)
    assert (other.resumed, other.images) == ([0], 120)
    (run / UNFINISHED_FILE).write_bytes(b"half")
    broken = Interrupting()
    assert score(run, broken, data=data, features="live", views=None, epochs=4).result == whole
    assert broken.images == 120


def test_a_killed_live_training_goes_on_without_choosing_its_learning_rate_again(data: Path) -> None:
    run = run_of(data)
    grid = {"features": "live", "views": None, "epochs": 2, "lr_grid": (0.01, 0.1)}
    whole = score(run, data=data, **grid).result
    (run / "linear.json").unlink()
    with pytest.raises(KeyboardInterrupt):
        score(run, Interrupting(after=30 + 8), data=data, **grid)
    again = Interrupting()
    assert score(run, again, data=data, **grid).result == whole
    assert again.images == 30
    assert sorted(path.name for path in run.iterdir() if "unfinished" in path.name) == []


def test_probabilities_of_the_test_images_are_averaged_over_ten_crops(data: Path) -> None:
    run, subset = run_of(data), data.parent / "subset.txt"
    subset.write_text(
        "".join(
            f"{split}/{name}/{number:02d}.png\n"
            for split, count in (("train", 9), ("val", 3))
            for name in ("apple", "pear")
            for number in range(count)
        )
    )
    settings = settings_of(run, data=data, crops=10, resize=20, subset=subset)
    evaluated = evaluate(settings, Silent())
    assert evaluated.result.crops == 10
    assert set(evaluated.result.scores()) == {"Linear, 10 crops", "Logistic regression"}
    crops, train = open_store(run / "test-crops.zarr"), open_store(run / "views.zarr")["train"]
    assert [len(crops[name].views) for name in ("train", "val")] == [1, 11]
    views = StoredViews(train.view, 2, train.samples.label)
    standardise = fit_standardisation([train.view(0)])
    classifier = fit(views, train.view(0).__getitem__, standardise, 2, settings, Silent()).classifiers
    right = 0
    for row, label in enumerate(crops["val"].samples.label):
        features = np.stack([crops["val"].view(1 + crop)[row] for crop in range(10)])
        probabilities = classifier.logits(torch.from_numpy(features))[:, 0].double().softmax(1)
        right += int(probabilities.mean(0).argmax()) == label
    assert evaluated.result.top1_percent == pytest.approx(100 * right / 6)


def test_logistic_regression_is_scikit_learns_on_the_standardised_features(teacher: Path) -> None:
    store = open_store(teacher)
    train, test = (Features(store[name].view(0), store[name].samples.label) for name in ("train", "val"))
    unit = [each.features / np.linalg.norm(each.features.astype(np.float64), axis=1)[:, None] for each in (train, test)]
    deviation = np.sqrt(unit[0].var(axis=0, ddof=1) + 1e-5)
    x, y = ((each - unit[0].mean(axis=0)) / deviation for each in unit)
    expected = 100 * LogisticRegression(C=1 / (30 * 1e-3), max_iter=1000).fit(x, train.labels).score(y, test.labels)
    ours = logistic_regression_accuracy(train, test, fit_standardisation([train.features]), 1e-3)
    assert ours == pytest.approx(expected)


def test_logistic_regression_is_left_out_of_many_images(teacher: Path) -> None:
    result = score(teacher, reference_images=29).result
    assert result.logistic_regression_top1_percent is None
    assert list(result.scores()) == ["Linear"]


def test_more_views_than_a_store_has_and_live_features_of_a_store_are_refused(data: Path, teacher: Path) -> None:
    with pytest.raises(InputError, match=r"Split train of '.*' has 2 random views, but 3 are needed; embed with more"):
        score(teacher, views=3)
    with pytest.raises(InputError, match="is a store of embeddings, and this evaluation needs the network itself"):
        score(teacher, data=data, features="live", views=None)
    with pytest.raises(
        InputError, match=r"Split val of '.*' has 0 ten-crop views, but 10 are needed; embed with --pol"
    ):
        score(teacher, crops=10)
    assert not (data.parent / "teacher.zarr.evaluation").exists()


def test_all_views_of_a_store_are_taken_where_no_number_is_asked_for(
    teacher: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    result = score(teacher, views=None).result
    assert result.views == 2
    assert "has 2 random views; all of them are used" in caplog.text
    assert result == score(teacher, views=2).result


def test_ten_crops_are_no_random_views(data: Path) -> None:
    store = data.parent / "teacher.zarr"
    given = {"policy": "ten-crop", "views": 10, "split": ("train", "val"), "block_rows": 30, **MACHINE}
    embed(EmbedSettings(data=data, store=store, teacher="random/conv4-16", **given), Silent())
    with pytest.raises(InputError, match="has 0 random views, but 2 are needed"):
        score(store)


def test_a_class_without_training_image_and_one_class_are_refused(data: Path) -> None:
    for file in (data / "train" / "pear").iterdir():
        shutil.copy(file, data / "train" / "apple" / f"more-{file.name}")
    subset = data.parent / "subset.txt"
    subset.write_text("".join(f"train/apple/{number:02d}.png\n" for number in range(12)))
    with pytest.raises(InputError, match="All training images have class 'apple'; a classifier needs two classes"):
        score(run_of(data), data=data, subset=subset)
    for split in ("train", "val"):
        (data / split / "plum").mkdir()
    shutil.copy(data / "val" / "pear" / "01.png", data / "val" / "plum" / "00.png")
    shutil.copy(data / "val" / "pear" / "01.png", data / "train" / "plum" / "00.png")
    subset.write_text("train/apple/01.png\ntrain/pear/01.png\n")
    with pytest.raises(InputError, match="Class 'plum' has test images but no training image"):
        score(run_of(data), data=data, subset=subset)


def test_a_store_without_the_split_is_named(teacher: Path) -> None:
    with pytest.raises(StoreError, match="has no split 'test'; it has train, val"):
        score(teacher, test_split="test")


def test_views_of_live_features_are_a_contradiction() -> None:
    with pytest.raises(ValueError, match="--views counts stored views, but --features live renders new ones"):
        LinearSettings(model="-", features="live", views=3)
