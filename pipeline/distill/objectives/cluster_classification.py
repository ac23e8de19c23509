"""CC: the teacher's embeddings are clustered once, and the student classifies each image's cluster.

Koohpayegani et al. 2020, section 4 ("CC", Noroozi et al. 2018), published code UMBCvision/CompRess, kmeans.py and
run_cc.sh at f6d5a1ff4064: k-means of 20 iterations on the L2-normalised embeddings of the evaluation view, 16,000
clusters of ImageNet. ClusterFit (Yan et al. 2020, section 3) is the same with a student that may be as large as the
teacher.
"""

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from compress_ssl.pipeline.common.settings import result_option
from compress_ssl.pipeline.distill.objectives import options
from compress_ssl.pipeline.distill.objectives.objective import Batch, Objective, TeacherEmbeddings


class ClusterClassification(Objective):
    """Minimise the cross-entropy of a linear classifier of the teacher's clusters, which ``fit_teacher`` finds.

    Needs ``Batch.rows``.

    Args:
        images: N, rows of the split.

    Example:
        >>> student, images, rows = nn.Linear(6, 16), torch.randn(64, 6), torch.arange(64)
        >>> teacher_embeddings = nn.functional.normalize(torch.randn(64, 32))
        >>> objective = ClusterClassification(student, teacher_dim=32, images=64, clusters=4)
        >>> objective.fit_teacher(TeacherEmbeddings(teacher_embeddings, rows))
        >>> optimizer = torch.optim.SGD([*student.parameters(), *objective.parameters()], lr=0.01)
        >>> for part in rows.chunk(3):
        ...     loss, logged = objective(student, Batch(images[part], teacher_embeddings[part], part))
        ...     optimizer.zero_grad(); loss.backward(); optimizer.step(); objective.after_step(student)
    """

    mixable = False  # the cluster is that of view 0
    needs_fit = True
    clusters: Tensor  # (N,) int64, the cluster of each row of the split; -1 for images that are not good

    def __init__(
        self,
        student: nn.Module,
        *,
        teacher_dim: int,
        images: int,
        student_dim: int | None = None,
        seed: int = 0,
        precision: options.Precision = "float32",
        clusters: Annotated[
            int | None,
            result_option(
                "Clusters of the teacher's embeddings, by default 16,000, or one per 39 images if that is fewer", ge=2
            ),
        ] = None,
    ) -> None:
        super().__init__(student, teacher_dim, student_dim, "none", precision)
        self.classifier = nn.Linear(self.student_dim, clusters or default_clusters(images))
        self.register_buffer("clusters", torch.full((images,), -1))
        self.seed = seed

    def fit_teacher(self, teacher: TeacherEmbeddings) -> None:
        """Cluster the teacher's embeddings."""
        from compress_ssl.pipeline.common.k_means import k_means  # loads faiss

        device = self.clusters.device
        found = k_means(teacher.embeddings, self.classifier.out_features, self.seed, device)
        self.clusters[teacher.rows.to(device)] = found.nearest.to(device)

    def compute_loss(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the cross-entropy, averaged over the batch."""
        return cross_entropy(self.classifier(features), self.clusters[batch.require_rows()]), {}


def default_clusters(images: int) -> int:
    """Return the published number for ImageNet, or fewer: of 39 images each, the fewest that faiss finds enough."""
    return max(2, min(16_000, images // 39))
