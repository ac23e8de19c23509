"""Linear: top-1 and top-5 of a linear classifier on frozen features (CompRess, section 4).

The protocol is that of UMBCvision/CompRess, eval_linear.py at cf33bab91f94: features L2-normalised, then each to zero
mean and unit variance with the statistics of the training images' view 0 (variance divided by N - 1, epsilon 1e-5); SGD
0.01, momentum 0.9, weight decay 1e-4 on weights and bias, batches of 256 with a shorter last one, 40 epochs, learning
rate times 0.1 after 15 and 30; RandomResizedCrop and flip in training, view 0 in testing; a network in evaluation mode.
Features are float32 there.

- ``live`` is exactly this protocol: every epoch renders new views, on several GPUs under torchrun.
- ``stored`` reads V views in turn from a store, as L2-normalised float16: minutes instead of hours.

The published code also reports the best of its 40 accuracies on the validation images; here it is the last epoch's. It
has one learning rate; with ``lr_grid`` it is selected on held-out training images (``classifier.py``).

scikit-learn's LogisticRegression on the same standardised view 0 without augmentation is reported too: the minimum of
the same loss, mean cross-entropy + weight_decay / 2 * sum of squared weights, except that its bias is not regularised.
"""

import warnings
from typing import Literal

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from compress_ssl.pipeline.common.device import choose_precision
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.settings import Settings
from compress_ssl.pipeline.evaluate.feature_source import FeatureSource
from compress_ssl.pipeline.evaluate.features import Features, check_classes
from compress_ssl.pipeline.evaluate.linear.batches import LiveViews, StoredViews
from compress_ssl.pipeline.evaluate.linear.classifier import TOP, Standardisation, accuracy, fit, fit_standardisation
from compress_ssl.pipeline.evaluate.settings import LinearSettings
from compress_ssl.pipeline.evaluate.unfinished_training import UnfinishedTraining
from compress_ssl.pipeline.images.policies import CROPS
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.pipeline.training.distributed import check_batch_divides, check_gpus_differ, is_rank0

UNFINISHED_FILE = "linear-unfinished.safetensors"


class LinearResult(Settings):
    """Accuracies on the test images, in percent."""

    top1_percent: float
    top5_percent: float
    features: Literal["stored", "live"]
    views: int  # number of different views of each training image in training
    crops: int  # per test image
    learning_rate: float
    held_out_top1_percent: dict[float, float]
    """Of each rate of the grid, on held-out training images; empty without a grid."""
    logistic_regression_top1_percent: float | None  # scikit-learn's, on view 0; None if there are too many images
    classes: int
    train_images: int
    test_images: int

    def scores(self) -> dict[str, float]:
        """Return percentages by column heading; top-5 only with more than five classes."""
        heading = "Linear" if self.crops == 1 else f"Linear, {self.crops} crops"
        scores = {heading: self.top1_percent}
        if self.classes > TOP:
            scores[f"{heading}, top-5"] = self.top5_percent
        if self.logistic_regression_top1_percent is not None:
            scores["Logistic regression"] = self.logistic_regression_top1_percent
        return scores


def evaluate_linear(settings: LinearSettings, source: FeatureSource, progress: Progress) -> LinearResult:
    """Train a linear classifier on frozen features, and score it.

    Raises:
        InputError: If an image has no label, a class has no training image, or a store has too few views or is given
            for live features.
        RunError: If the training diverges.
    """
    live = settings.features == "live"
    if live:
        check_batch_divides(settings.classifier_batch_size, option="--classifier-batch-size")
        store = source.features()
    else:
        settings = source.limit_views(settings)
        store = source.views(settings.views, settings.policy)
    split = store[settings.train_split]
    train, test = source.read("training", split), source.read("test", store[settings.test_split])
    check_classes(train.labels, test.labels, split.class_names)
    tested = [test]
    if settings.crops == CROPS:
        crops = source.crops(training=False)[settings.test_split]
        tested = [source.read("test", crops, 1 + crop) for crop in range(CROPS)]
    standardise = fit_standardisation(train.blocks(), source.device)
    unfinished = None
    if live:
        check_gpus_differ(source.device)
        source.network.module.to(memory_format=torch.channels_last)
        images = open_source(source.data, split.folder, source.index_folder)
        precision = choose_precision(settings.precision, source.device)
        views: LiveViews | StoredViews = LiveViews(split, images, source.network, source.renderer, precision)
        identity = {"network": store.attributes["teacher"], "data_set": store.attributes["data_set"]}
        identity["settings"] = settings.result_record("model")
        unfinished = UnfinishedTraining(source.folder / UNFINISHED_FILE, identity)
    else:
        random_views = [source.read("training", split, 1 + view) for view in range(settings.views)]
        views = StoredViews(lambda view: random_views[view - 1].in_memory().features, settings.views, train.labels)
    fitted = fit(views, train.rows, standardise, len(split.class_names), settings, progress, unfinished)
    top1, top5 = accuracy(fitted.classifiers, [each.blocks() for each in tested], test.labels)
    reference = None
    if len(train.labels) <= settings.reference_images:
        features = train.in_memory(), test.in_memory()
        reference = logistic_regression_accuracy(*features, standardise, settings.weight_decay)
    if unfinished and is_rank0():
        unfinished.remove()
    return LinearResult(
        top1_percent=top1[0],
        top5_percent=top5[0],
        features=settings.features,
        views=settings.epochs if live else min(settings.views, settings.epochs),
        crops=settings.crops,
        learning_rate=fitted.learning_rate,
        held_out_top1_percent=fitted.held_out_top1_percent,
        logistic_regression_top1_percent=reference,
        classes=len(split.class_names),
        train_images=len(train.labels),
        test_images=len(test.labels),
    )


def logistic_regression_accuracy(
    train: Features, test: Features, standardise: Standardisation, weight_decay: float
) -> float:
    """Return top-1 in percent of scikit-learn's LogisticRegression with the penalty that equals a weight decay.

    Half of ``weight_decay`` times the squared weights is added to the mean loss.
    """
    device = standardise.mean.device
    inputs, queries = (
        standardise(torch.from_numpy(each.features).to(device)).double().cpu().numpy() for each in (train, test)
    )
    strength = 1 / (len(inputs) * weight_decay) if weight_decay else float("inf")
    model = LogisticRegression(C=strength, max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # separable features: the accuracy is stable long before
        model.fit(inputs, train.labels)
    return 100 * float(model.score(queries, test.labels))
