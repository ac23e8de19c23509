"""CC: the teacher's embeddings are clustered once, and the student classifies each image's cluster.

Koohpayegani et al. 2020, section 4 ("CC", Noroozi et al. 2018), published code UMBCvision/CompRess, kmeans.py and
run_cc.sh at f6d5a1ff4064: k-means of 20 iterations on the L2-normalised embeddings of the evaluation view, 16,000
clusters of ImageNet. ClusterFit (Yan et al. 2020, section 3) is the same with a student that may be as large as the teacher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from compress_ssl.pipeline.common.k_means import k_means
from compress_ssl.pipeline.distill.objectives.objective import AllImages, Batch, Dims, Objective

if TYPE_CHECKING:
    from torch import Tensor

    from compress_ssl.pipeline.distill.settings import DistillSettings


class ClusterClassification(Objective):
    """The cross-entropy of a linear classifier of the teacher's clusters."""

    clusters: Tensor
    """(N,) int64, the cluster of each row of the split; -1 for images that are not good."""

    def __init__(self, student: nn.Module, dims: Dims, settings: DistillSettings) -> None:
        super().__init__(student, dims, settings)
        assert settings.clusters is not None
        self.classifier = nn.Linear(dims.student, settings.clusters)
        self.register_buffer("clusters", torch.full((dims.images,), -1))
        self.seed = settings.seed

    def fit_teacher(self, everything: AllImages) -> None:
        """Cluster the teacher's embeddings."""
        device = self.clusters.device
        found = k_means(everything.embeddings, self.classifier.out_features, self.seed, device)
        self.clusters[everything.rows.to(device)] = found.nearest.to(device)

    def forward(self, student: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy, averaged over the batch."""
        logits = self.classifier(self.projected(student, batch.images))
        return cross_entropy(logits, self.clusters[batch.rows]), {}
