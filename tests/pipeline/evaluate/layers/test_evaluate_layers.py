"""Layers' classifiers: the training against a float64 loop, the windows they see, the stage, what it refuses."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from compress_ssl.pipeline.common.errors import InputError, RunError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.pipeline.evaluate.layers.evaluate import UNFINISHED_FILE, LayersResult, accuracy, train_classifiers
from compress_ssl.pipeline.evaluate.layers.features import Batch, window_parameters
from compress_ssl.pipeline.evaluate.run import evaluate
from compress_ssl.pipeline.evaluate.settings import LayersSettings
from compress_ssl.pipeline.images.index import index_images
from compress_ssl.pipeline.images.parameters import evaluation_parameters
from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.images.rendering import RenderJob, render
from compress_ssl.pipeline.images.sources.files import FolderSource
from compress_ssl.pipeline.networks.network import load_network, save_network
from compress_ssl.storage.parameters import COLUMN

MACHINE: dict[str, Any] = {"size": 16, "resize": 17, "device": "cpu", "threads": 1, "renderer": "torchvision"}
COUNTS = {"early": 7, "late": 4}
CLASSES = 3

Array = npt.NDArray[np.float64]


def settings_of(model: str = "random/conv4-16", **given: Any) -> LayersSettings:
    return LayersSettings(**{"model": model, "epochs": 3, "classifier_batch_size": 10, **MACHINE, **given})


def batches_of(seed: int, count: int = 25, size: int = 10) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    features = {
        name: torch.randn(count, width, generator=generator) + labels[:, None] * 0.3 for name, width in COUNTS.items()
    }
    starts = range(0, count, size)
    return [
        Batch({name: rows[start : start + size] for name, rows in features.items()}, labels[start : start + size])
        for start in starts
    ]


def sgd(
    weight: Array, bias: Array, epochs: list[list[Batch]], layer: str, settings: LayersSettings
) -> tuple[Array, Array]:
    """DeepCluster's training of one layer, written out in float64.

    Softmax regression, momentum, decay, falling rate.
    """
    speed = [np.zeros_like(weight), np.zeros_like(bias)]
    step = 0
    for batches in epochs:
        for features, labels in batches:
            rows, truth = features[layer].double().numpy(), np.eye(CLASSES)[labels.numpy()]
            logits = rows @ weight.T + bias
            shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            error = (shares - truth) / len(rows)
            rate = settings.learning_rate / np.sqrt(1 + settings.learning_rate * settings.weight_decay * step)
            for number, (parameter, gradient) in enumerate(((weight, error.T @ rows), (bias, error.sum(axis=0)))):
                speed[number] = settings.momentum * speed[number] + gradient + settings.weight_decay * parameter
                parameter -= rate * speed[number]
            step += 1
    return weight, bias


def test_each_classifier_is_that_of_a_float64_loop_of_its_own() -> None:
    # A large decay, so that the falling rate is seen.
    settings = settings_of(learning_rate=0.1, weight_decay=0.5)
    epochs = [batches_of(seed) for seed in range(3)]
    start = train_classifiers([], COUNTS, CLASSES, settings)
    trained = train_classifiers(map(iter, epochs), COUNTS, CLASSES, settings)
    for layer in COUNTS:
        before = [parameter.detach().double().numpy().copy() for parameter in start[layer].parameters()]
        weight, bias = sgd(*before, epochs, layer, settings)
        np.testing.assert_allclose(trained[layer].weight.detach().numpy(), weight, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(trained[layer].bias.detach().numpy(), bias, rtol=1e-4, atol=1e-5)


def test_accuracy_is_counted_by_a_loop() -> None:
    classifiers = train_classifiers([iter(batches_of(0))], COUNTS, CLASSES, settings_of())
    test = batches_of(7, 33)
    found = accuracy(classifiers, test)
    for layer in COUNTS:
        right = [
            int(classifiers[layer](row).argmax()) == int(label)
            for features, labels in test
            for row, label in zip(features[layer], labels, strict=True)
        ]
        assert found[layer] == pytest.approx(100 * sum(right) / 33)


def test_classifier_that_diverges_is_named_with_its_epoch() -> None:
    def epochs() -> Iterator[Iterator[Batch]]:
        yield iter(batches_of(0))
        yield (Batch({**features, "late": features["late"] * torch.inf}, labels) for features, labels in batches_of(1))

    with pytest.raises(RunError, match=r"The classifier of layer late is not finite after epoch 2; lower"):
        train_classifiers(epochs(), COUNTS, CLASSES, settings_of())


def test_windows_are_of_the_centre_square_everywhere_in_it_and_flipped_half_of_the_time() -> None:
    sizes = np.tile(np.array([[60, 100]], np.int32), (4000, 1))
    parameters = window_parameters(sizes, 40, 36, seed=0, epoch=0)
    whole = evaluation_parameters(sizes[:1], 40, 40)[0]
    left, top = (parameters[:, COLUMN[name]] for name in ("window_left", "window_top"))
    assert set(left - whole[COLUMN["window_left"]]) == set(top - whole[COLUMN["window_top"]]) == {0, 1, 2, 3, 4}
    assert np.mean(parameters[:, COLUMN["flip"]]) == pytest.approx(0.5, abs=0.05)
    unmoved = [number for name, number in COLUMN.items() if name not in ("window_left", "window_top", "flip")]
    assert (parameters[:, unmoved] == whole[unmoved]).all()
    again, later = (window_parameters(sizes, 40, 36, seed=0, epoch=epoch) for epoch in (0, 1))
    np.testing.assert_array_equal(again, parameters)
    assert (later != parameters).any()
    equal = window_parameters(sizes, 36, 36, seed=0, epoch=0)[:, COLUMN["window_left"]]
    assert (equal == evaluation_parameters(sizes[:1], 36, 36)[0, COLUMN["window_left"]]).all()


def test_window_has_the_pixels_of_the_resized_image(data: Path) -> None:
    source = FolderSource(data / "train")
    index = index_images(source, source.listing(), data.parent / "i.npz", threads=1, progress=Silent())
    samples = index.samples
    windows = window_parameters(samples.image_size, 17, 12, seed=3, epoch=0)
    whole = evaluation_parameters(samples.image_size, 17, 17)
    renderer = make_renderer("torchvision", torch.device("cpu"), 1)

    def rendered(parameters: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.uint8]:
        job = RenderJob(source, samples.sample_path, samples.content_hash, parameters[:, None], (size,))
        return np.concatenate([pixels.numpy() for (pixels,) in render(renderer, job, 10)])

    seen, around = rendered(windows, 12), rendered(whole, 17)
    for row, parameters in enumerate(windows):
        left, top = (int(parameters[COLUMN[name]] - whole[row, COLUMN[name]]) for name in ("window_left", "window_top"))
        part = around[row, top : top + 12, left : left + 12]
        expected = part[:, ::-1] if parameters[COLUMN["flip"]] else part
        assert np.abs(seen[row].astype(int) - expected).max() <= 1


def run_of(data: Path) -> Path:
    folder = data.parent / "student"
    folder.mkdir()
    save_network(folder / MODEL_FILE, load_network("random/conv4-16"))
    return folder


def score(data: Path, model: Path | str, **given: Any) -> LayersResult:
    result = evaluate(settings_of(str(model), **{"data": data, **given}), Silent()).result
    assert isinstance(result, LayersResult)
    return result


def test_stage_scores_every_layer_and_names_the_best(data: Path) -> None:
    run = run_of(data)
    result = score(data, run, epochs=12, learning_rate=0.1)
    assert [layer.layer for layer in result.layers] == ["conv1", "conv2", "conv3", "conv4"]
    assert [layer.features for layer in result.layers] == [16 * 64, 16 * 16, 16 * 4, 16]
    assert (result.train_images, result.test_images) == (30, 12)
    best = max(result.layers, key=lambda layer: layer.top1_percent)
    assert result.best_layer == best.layer
    assert best.top1_percent > 70  # the redder class is seen in colours
    written = json.loads((run / "layers.json").read_text())
    assert written["scores"] == {"Best layer": best.top1_percent}
    assert written["network"]["name"] == "student"
    assert score(data, run, epochs=12, learning_rate=0.1) == result


class Killing:
    """A progress bar that kills the evaluation when so many images are done; it remembers where it began."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.done, self.began = at, 0, -1

    @contextlib.contextmanager
    def track(self, title: str, total: int, unit: str = "images") -> Iterator[Callable[[int], None]]:
        def advance(amount: int) -> None:
            if title == "layers":
                self.began = amount if self.began < 0 else self.began
                self.done += amount
                if self.done == self.at:
                    raise KeyboardInterrupt

        yield advance


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_a_training_that_was_killed_goes_on_with_its_last_whole_epoch(data: Path, momentum: float) -> None:
    run = run_of(data)
    settings = settings_of(str(run), data=data, momentum=momentum, learning_rate=0.1)
    whole = evaluate(settings, Silent()).result
    (run / "layers.json").unlink()
    with pytest.raises(KeyboardInterrupt):
        evaluate(settings, Killing(at=30 + 30 + 10))
    kept = (run / UNFINISHED_FILE).read_bytes()
    again = Killing()
    assert evaluate(settings, again).result == whole
    assert (again.began, again.done) == (60, 3 * 30 + 12)
    assert not (run / UNFINISHED_FILE).exists()
    (run / UNFINISHED_FILE).write_bytes(kept)
    other = Killing()
    evaluate(settings.model_copy(update={"seed": 1}), other)
    assert other.began == 0


def test_weights_and_momentum_of_a_kept_state_go_on_as_if_uninterrupted() -> None:
    epochs, states = [batches_of(seed) for seed in range(3)], []
    whole = train_classifiers(map(iter, epochs), COUNTS, CLASSES, settings_of())
    train_classifiers(
        map(iter, epochs[:2]),
        COUNTS,
        CLASSES,
        settings_of(),
        keep=lambda state: states.append({name: tensor.clone() for name, tensor in state.items()}),
    )
    resumed = train_classifiers(map(iter, epochs[2:]), COUNTS, CLASSES, settings_of(seed=9), state=states[-1])
    for name, weight in whole.named_parameters():
        torch.testing.assert_close(resumed.get_parameter(name), weight, rtol=0, atol=0)


def test_layers_learn_the_same_alone(data: Path) -> None:
    run = run_of(data)
    together = score(data, run).layers
    # The first of them has the same random numbers for its weights.
    (alone,) = score(data, run, layers=("conv1",)).layers
    assert alone == together[0]


def test_batches_of_the_forward_pass_change_nothing(data: Path) -> None:
    run = run_of(data)
    assert score(data, run, batch_size=3) == score(data, run, batch_size=30)


def test_another_data_set_is_scored_like_the_networks_own(data: Path) -> None:
    run = run_of(data)
    other = data.parent / "places"
    for split in ("train", "val"):
        for old, new in (("apple", "beach"), ("pear", "church")):
            shutil.copytree(data / split / old, other / split / new)
    shutil.copytree(other / "val" / "beach", other / "train" / "harbour")
    shutil.copytree(other / "val" / "beach", other / "val" / "harbour")
    assert (score(other, run).train_images, score(other, run).test_images) == (36, 18)


def test_store_is_refused_for_want_of_a_network(data: Path, teacher: Path) -> None:
    with pytest.raises(InputError, match="is a store of embeddings, and this evaluation needs the network itself"):
        score(data, teacher)


def test_image_without_a_label_and_a_single_class_are_refused(data: Path) -> None:
    run = run_of(data)
    for split in ("train", "val"):
        shutil.rmtree(data / split / "pear")
    with pytest.raises(InputError, match=r"All training images have class 'apple'; a classifier needs two"):
        score(data, run)
    for split in ("train", "val"):
        for file in sorted((data / split / "apple").glob("*.png")):
            file.rename(data / split / file.name)
        (data / split / "apple").rmdir()
    with pytest.raises(InputError, match="The training image in row 0 has no label"):
        score(data, run)


def test_data_set_is_needed(data: Path) -> None:
    with pytest.raises(InputError, match="--data is needed"):
        evaluate(settings_of(str(run_of(data))), Silent())
