"""Linear classifiers on every layer of a frozen network (the paper's Places and ImageNet rows of AlexNet).

The protocol is DeepCluster's (Caron et al. 2018): facebookresearch/deepcluster, eval_linear.py at 1b56becea and
``learning_rate_decay`` of util.py at 11f09fe6f. Images are resized and cropped to the centre square, of which every epoch
sees a random window, flipped or not; features are pooled to about 9,000 (``layer_features.py``) and not normalised; each
layer has its own logistic regression, trained by SGD whose rate falls with every step t as rate / sqrt(1 + rate x decay x
t). Scored is the centre crop after the last epoch; there it was the best epoch's, in ten crops where asked for.

All layers learn in one pass over the images. Features are used and forgotten, so memory does not grow with the images.
The best layer is the one that does best on the test images, as in the published tables. A training that is interrupted goes
on from its last whole epoch.

Letters: D features of a layer, C classes.
"""

from __future__ import annotations

import functools
import logging
import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from compress_ssl.pipeline.common.errors import RunError
from compress_ssl.pipeline.common.memory import format_bytes
from compress_ssl.pipeline.common.settings import Settings
from compress_ssl.pipeline.evaluate.features import check_classes, check_labels
from compress_ssl.pipeline.evaluate.kept_training import KeptTraining
from compress_ssl.pipeline.evaluate.layers.batches import LayerBatches
from compress_ssl.pipeline.evaluate.layers.features import feature_counts, layers_of, taken_layers
from compress_ssl.pipeline.images.data_set import index_data_set

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor

    from compress_ssl.pipeline.common.progress import Progress
    from compress_ssl.pipeline.evaluate.feature_source import FeatureSource
    from compress_ssl.pipeline.evaluate.layers.batches import Batch
    from compress_ssl.pipeline.evaluate.settings import LayersSettings
    from compress_ssl.pipeline.images.index import ImageIndex

logger = logging.getLogger(__name__)

MOMENTUM = " momentum"
"""Behind a weight's name, in a kept state."""

KEPT_FILE = "layers-unfinished.safetensors"

COPIES = 3
"""Of the classifiers' weights in memory: themselves, momentum, gradient."""


class LayerResult(Settings):
    """One layer's classifier."""

    layer: str
    features: int
    """D, after pooling."""
    top1_percent: float


class LayersResult(Settings):
    """Every layer's, from the first on."""

    layers: tuple[LayerResult, ...]
    best_layer: str
    train_images: int
    test_images: int

    def scores(self) -> dict[str, float]:
        """Top-1 in percent, by the heading of its column."""
        return {"Best layer": max(result.top1_percent for result in self.layers)}


def evaluate_layers(settings: LayersSettings, subject: FeatureSource, progress: Progress) -> LayersResult:
    """Train a linear classifier on every layer, and score the test images.

    Raises
    ------
    InputError
        If it is a store, its layers are not known, or the images or their labels cannot be used.
    RunError
        If a classifier diverges.
    """
    layers = layers_of(subject.network, settings.layers)
    subject.check_classes()
    indexes = index_data_set(
        subject.data,
        dict.fromkeys((settings.train_split, settings.test_split)),
        subject.folder,
        settings.model_copy(update={"index_folder": subject.index_folder}),
        threads=settings.thread_count,
        progress=progress,
    )
    train, test = indexes[settings.train_split], indexes[settings.test_split]
    train_labels, test_labels = (index.samples.label[index.samples.good] for index in (train, test))
    check_labels("training", train_labels)
    check_labels("test", test_labels)
    check_classes(train_labels, test_labels, train.samples.class_names)
    counts = feature_counts(subject.network, layers, subject.sizes[0], subject.device)
    classes = len(train.samples.class_names)
    _say_memory(counts, classes)
    total = settings.epochs * len(train_labels) + len(test_labels)
    kept = _kept(settings, subject, train)
    begun = kept.read({}) or {}
    first = int(begun.get("epoch", 0))
    with taken_layers(subject.network, layers) as take, progress.track("layers", total) as advance:
        images = LayerBatches(settings, subject, take, advance)
        advance(first * len(train_labels))
        epochs = (images.of_epoch(train, epoch) for epoch in range(first, settings.epochs))
        keep = functools.partial(kept.write, {})
        classifiers = train_classifiers(epochs, counts, classes, settings, subject.device, begun, keep)
        top1 = accuracy(classifiers, images.of_evaluation_view(test))
    kept.remove()
    results = [LayerResult(layer=name, features=counts[name], top1_percent=top1[name]) for name in layers]
    logger.info("Top-1: %s.", ", ".join(f"{result.layer} {result.top1_percent:.1f}" for result in results))
    return LayersResult(
        layers=tuple(results),
        best_layer=max(results, key=lambda result: result.top1_percent).layer,
        train_images=len(train_labels),
        test_images=len(test_labels),
    )


def train_classifiers(
    epochs: Iterable[Iterable[Batch]],
    counts: Mapping[str, int],
    classes: int,
    settings: LayersSettings,
    device: torch.device | str = "cpu",
    begun: Mapping[str, Tensor] | None = None,
    keep: Callable[[dict[str, Tensor]], None] = lambda state: None,
) -> nn.ModuleDict:
    """Train a linear layer on each layer's features; the classifiers share batches and nothing else.

    Parameters
    ----------
    epochs : iterable of iterables of Batch
        Those that are left to do.
    counts : mapping from layer to D
    classes : int
        C.
    begun : mapping, optional
        A state to go on from.
    keep : callable
        Told the state after every epoch.

    Raises
    ------
    RunError
        If the weights of one are not numbers after an epoch.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        classifiers = nn.ModuleDict({name: nn.Linear(count, classes) for name, count in counts.items()}).to(device)
    optimizer = torch.optim.SGD(
        classifiers.parameters(), settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    done, step = _go_on(classifiers, optimizer, begun) if begun else (0, 0)
    for epoch, batches in enumerate(epochs, done):
        for features, labels in batches:
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(settings, step)
            optimizer.zero_grad()
            losses = [cross_entropy(classifiers[name](features[name]), labels) for name in counts]
            torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
        for name, classifier in classifiers.items():
            if not all(bool(weight.isfinite().all()) for weight in classifier.parameters()):
                raise RunError(
                    f"The classifier of layer {name} is not a number any more after epoch {epoch + 1}; lower "
                    "--learning-rate, or leave the layer out by naming the others with --layers."
                )
        keep(_state(classifiers, optimizer, epoch + 1, step))
    return classifiers


def _state(classifiers: nn.ModuleDict, optimizer: torch.optim.SGD, epoch: int, step: int) -> dict[str, Tensor]:
    """Weights and momentum after so many epochs and steps."""
    state = {"epoch": torch.tensor(epoch), "step": torch.tensor(step)}
    for name, weight in classifiers.named_parameters():
        momentum = optimizer.state[weight].get("momentum_buffer")
        state |= {name: weight} if momentum is None else {name: weight, name + MOMENTUM: momentum}
    return state


def _go_on(classifiers: nn.ModuleDict, optimizer: torch.optim.SGD, state: Mapping[str, Tensor]) -> tuple[int, int]:
    """Put a state in place; its epoch and step."""
    for name, weight in classifiers.named_parameters():
        weight.data.copy_(state[name])
        if name + MOMENTUM in state:
            optimizer.state[weight]["momentum_buffer"] = state[name + MOMENTUM].to(weight.device)
    return int(state["epoch"]), int(state["step"])


def _kept(settings: LayersSettings, subject: FeatureSource, train: ImageIndex) -> KeptTraining:
    """Beside the result, found again by network, images and settings."""
    identity = {
        "network": subject.description,
        "train": train.fingerprint(),
        "settings": settings.result_record("model"),
    }
    return KeptTraining(subject.folder / KEPT_FILE, identity)


def _learning_rate(settings: LayersSettings, step: int) -> float:
    return settings.learning_rate / math.sqrt(1 + settings.learning_rate * settings.weight_decay * step)


@torch.inference_mode()
def accuracy(classifiers: nn.ModuleDict, batches: Iterable[Batch]) -> dict[str, float]:
    """Top-1 of each layer's classifier, in percent."""
    right, count = dict.fromkeys(classifiers.keys(), 0), 0
    for features, labels in batches:
        for name, classifier in classifiers.items():
            right[name] += int((classifier(features[name]).argmax(1) == labels).sum())
        count += len(labels)
    return {name: 100 * hits / count for name, hits in right.items()}


def _say_memory(counts: Mapping[str, int], classes: int) -> None:
    weights = COPIES * 4 * sum(counts.values()) * classes
    logger.info(
        "%d classifiers learn side by side: %s features of an image, %s of weights, momentum and gradient; features are not "
        "kept.",
        len(counts), " + ".join(f"{count:,}" for count in counts.values()), format_bytes(weights),
    )  # fmt: skip
