"""Supervised training by cross entropy, one view per image: the supervised baseline where no weights are published."""

import numpy as np
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.settings import Precision
from compress_ssl.pipeline.images.index import ImageIndex
from compress_ssl.pipeline.pretrain.method import Method


def check_labels(index: ImageIndex) -> None:
    """Check that every image has a label and that there are at least two classes.

    Raises:
        InputError: If not; names the first image without a label.
    """
    samples = index.samples
    unlabelled = np.flatnonzero(samples.good & (samples.label < 0))
    if len(unlabelled):
        raise InputError(
            f"The image '{index.source.describe(samples.sample_path[unlabelled[0]])}' has no label, and --method "
            "supervised needs one for every image; store the images in one folder per class, or give --labels."
        )
    if len(np.unique(samples.label[samples.good])) < 2:
        raise InputError(
            f"All images of '{index.source.location}' are of one class, and --method supervised needs two or more; "
            "add another class, or take --method simclr."
        )


def classification_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the mean cross entropy of logits (B, classes), and the top-1 accuracy in percent to log."""
    accuracy = (logits.detach().argmax(dim=1) == labels).float().mean()
    return cross_entropy(logits, labels), {"train_top1_percent": 100 * accuracy}


class Supervised(Method):
    """Cross entropy of a linear classifier on the features."""

    views = 1

    def __init__(self, feature_dim: int, *, classes: int, precision: Precision = "float32") -> None:
        super().__init__(precision=precision)
        self.head = nn.Linear(feature_dim, classes)

    def forward(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the classifier."""
        return classification_loss(self.head(self.encode(network, images)), labels)
