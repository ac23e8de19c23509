"""Cross entropy on the labels, one view an image: the supervised rows where no trained weights can be had."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import nn
from torch.nn.functional import cross_entropy

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.pretrain.method import Method

if TYPE_CHECKING:
    from torch import Tensor

    from compress_ssl.pipeline.images.index import ImageIndex
    from compress_ssl.pipeline.pretrain.settings import PretrainSettings


def make_classifier(feature_dim: int, index: ImageIndex) -> nn.Linear:
    """A linear layer with an output a class.

    Raises
    ------
    InputError
        If an image has no label, or all have the same.
    """
    samples = index.samples
    unlabelled = np.flatnonzero(samples.good & (samples.label < 0))
    if len(unlabelled):
        raise InputError(
            f"The image '{index.source.describe(samples.sample_path[unlabelled[0]])}' has no label, and --method "
            "supervised needs one of every image: a folder a class, or --labels."
        )
    if len(np.unique(samples.label[samples.good])) < 2:
        raise InputError(
            f"All images of '{index.source.location}' are of one class, which leaves --method supervised nothing to "
            "learn; add another class, or take --method simclr."
        )
    return nn.Linear(feature_dim, len(samples.class_names))


def classification_loss(outputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross entropy of outputs (B, classes), averaged over the batch, and how many are right in percent."""
    right = (outputs.detach().argmax(dim=1) == labels).float().mean()
    return cross_entropy(outputs, labels), {"train_top1_percent": 100 * right}


class Supervised(Method):
    """A linear classifier on the features."""

    views = 1

    def __init__(self, network: nn.Module, feature_dim: int, index: ImageIndex, settings: PretrainSettings) -> None:
        super().__init__(network, feature_dim, index, settings)
        self.head = make_classifier(feature_dim, index)

    def forward(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross entropy of the classes."""
        return classification_loss(self.head(self.encode(network, images)), labels)
