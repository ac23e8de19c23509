"""Linear classifiers on every layer of a frozen network (the paper's Places and ImageNet rows of AlexNet).

The protocol is DeepCluster's (Caron et al. 2018): facebookresearch/deepcluster, eval_linear.py at 1b56becea and
``learning_rate_decay`` of util.py at 11f09fe6f. Images are resized and cropped to the centre square, of which every
epoch sees a random window, flipped or not; features are pooled to about 9,000 (``features.py``) and not normalised;
each layer has its own logistic regression, trained by SGD with learning rate r / sqrt(1 + r x decay x t) at step t. The
score is that of the centre crop after the last epoch; there it was the best epoch's, with ten crops as an option.

All layers are trained in one pass over the images. Features are not stored, so memory does not grow with the images.
The best layer is the one with the best test accuracy, as in the published tables. An interrupted training is resumed
from its last complete epoch.

Letters: D features of a layer, C classes.
"""

import functools
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from compress_ssl.pipeline.common.errors import RunError
from compress_ssl.pipeline.common.memory import format_bytes
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.settings import Settings
from compress_ssl.pipeline.evaluate.feature_source import FeatureSource
from compress_ssl.pipeline.evaluate.features import check_classes, check_labels
from compress_ssl.pipeline.evaluate.layers.features import Batch, LayerBatches, feature_counts, layer_outputs, layers_of
from compress_ssl.pipeline.evaluate.settings import LayersSettings
from compress_ssl.pipeline.evaluate.unfinished_training import UnfinishedTraining

logger = logging.getLogger(__name__)

MOMENTUM = " momentum"  # suffix of a weight's name, for its momentum buffer in the stored state

UNFINISHED_FILE = "layers-unfinished.safetensors"


class LayerResult(Settings):
    """Accuracy of one layer's classifier."""

    layer: str
    features: int  # D, after pooling
    top1_percent: float


class LayersResult(Settings):
    """Results of all layers, in order."""

    layers: tuple[LayerResult, ...]
    best_layer: str
    train_images: int
    test_images: int

    def scores(self) -> dict[str, float]:
        """Return top-1 in percent by column heading."""
        return {"Best layer": max(result.top1_percent for result in self.layers)}


def evaluate_layers(settings: LayersSettings, source: FeatureSource, progress: Progress) -> LayersResult:
    """Train a linear classifier on every layer, and score the test images.

    Raises:
        InputError: If the model is a store, its layers are not known, or the images or their labels cannot be used.
        RunError: If a classifier diverges.
    """
    layers = layers_of(source.network, settings.layers)
    source.check_classes()
    train, test = source.index_images()
    train_labels, test_labels = (index.samples.label[index.samples.good] for index in (train, test))
    check_labels("training", train_labels)
    check_labels("test", test_labels)
    check_classes(train_labels, test_labels, train.samples.class_names)
    counts = feature_counts(source.network, layers, source.sizes[0], source.device)
    classes = len(train.samples.class_names)
    logger.info(
        "%d classifiers are trained side by side: %s features per image, %s of weights, momentum and gradients.",
        len(counts),
        " + ".join(f"{count:,}" for count in counts.values()),
        format_bytes(3 * 4 * sum(counts.values()) * classes),  # three float32 tensors
    )
    identity = {
        "network": source.description,
        "train": train.fingerprint(),
        "settings": settings.result_record("model"),
    }
    unfinished = UnfinishedTraining(source.folder / UNFINISHED_FILE, identity)
    state = unfinished.read({}) or {}
    first = int(state.get("epoch", 0))
    total = settings.epochs * len(train_labels) + len(test_labels)
    with layer_outputs(source.network, layers) as forward, progress.track("layers", total) as advance:
        images = LayerBatches(settings, source, forward, advance)
        advance(first * len(train_labels))
        epochs = (images.of_epoch(train, epoch) for epoch in range(first, settings.epochs))
        keep = functools.partial(unfinished.write, {})
        classifiers = train_classifiers(epochs, counts, classes, settings, source.device, state, keep)
        top1 = accuracy(classifiers, images.of_evaluation_view(test))
    unfinished.remove()
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
    state: Mapping[str, Tensor] = MappingProxyType({}),
    keep: Callable[[dict[str, Tensor]], None] = lambda state: None,
) -> nn.ModuleDict:
    """Train a linear layer on each layer's features; the classifiers share nothing but the batches.

    Args:
        epochs (iterable of iterables of Batch): Those left to do.
        counts (mapping from layer to D)
        classes: C.
        state: State to resume from; empty to start.
        keep: Called with the state after every epoch.

    Raises:
        RunError: If the weights of a classifier are not finite after an epoch.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        classifiers = nn.ModuleDict({name: nn.Linear(count, classes) for name, count in counts.items()}).to(device)
    optimizer = torch.optim.SGD(
        classifiers.parameters(), settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    for name, weight in classifiers.named_parameters():
        if name in state:
            weight.data.copy_(state[name])
        if name + MOMENTUM in state:
            optimizer.state[weight]["momentum_buffer"] = state[name + MOMENTUM].to(device)

    rate, step = settings.learning_rate, int(state.get("step", 0))
    for epoch, batches in enumerate(epochs, int(state.get("epoch", 0)) + 1):
        for features, labels in batches:
            optimizer.param_groups[0]["lr"] = rate / math.sqrt(1 + rate * settings.weight_decay * step)
            optimizer.zero_grad()
            losses = [cross_entropy(classifiers[name](features[name]), labels) for name in counts]
            torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
        for name, classifier in classifiers.items():
            if not all(bool(weight.isfinite().all()) for weight in classifier.parameters()):
                raise RunError(
                    f"The classifier of layer {name} is not finite after epoch {epoch}; lower --learning-rate, or "
                    "leave the layer out by naming the others with --layers."
                )
        after = {"epoch": torch.tensor(epoch), "step": torch.tensor(step)}
        for name, weight in classifiers.named_parameters():
            momentum = optimizer.state[weight].get("momentum_buffer")
            after |= {name: weight} if momentum is None else {name: weight, name + MOMENTUM: momentum}
        keep(after)
    return classifiers


@torch.inference_mode()
def accuracy(classifiers: nn.ModuleDict, batches: Iterable[Batch]) -> dict[str, float]:
    """Return top-1 of each layer's classifier, in percent."""
    right, count = dict.fromkeys(classifiers.keys(), 0), 0
    for features, labels in batches:
        for name, classifier in classifiers.items():
            right[name] += int((classifier(features[name]).argmax(1) == labels).sum())
        count += len(labels)
    return {name: 100 * hits / count for name, hits in right.items()}
