"""CC: the clusters against scikit-learn's, the loss against a float64 loop."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn.functional import normalize

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.k_means import k_means
from compress_ssl.pipeline.distill.objectives.objective import Batch, TeacherEmbeddings
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.distill.task import build_objective
from compress_ssl.pipeline.networks.architectures import build_backbone

Students = Callable[..., DistillSettings]
Trained = Callable[..., dict[str, Tensor]]


def test_clusters_are_a_fixed_point_of_lloyds_algorithm() -> None:
    torch.manual_seed(0)
    kinds = torch.randn(6, 10)
    embeddings = normalize(kinds.repeat(20, 1) + 0.2 * torch.randn(120, 10), dim=1)
    found = k_means(embeddings, 6, 0, torch.device("cpu"))
    theirs = KMeans(6, init=found.centroids.double().numpy(), n_init=1, max_iter=1).fit(embeddings.double().numpy())
    assert (theirs.labels_ == found.nearest.numpy()).all()
    np.testing.assert_allclose(theirs.cluster_centers_, found.centroids, atol=1e-5)
    assert found.nearest.bincount(minlength=6).min() > 0


def test_loss_and_its_gradient_are_the_textbooks(student: Students) -> None:
    settings = student(objective="cc", clusters=5)
    module, feature_dim = build_backbone("conv4-16", 0)
    torch.manual_seed(0)
    objective: Any = build_objective(
        settings, settings.objective_options, module, student_dim=feature_dim, teacher_dim=24, images=60
    )
    good = torch.arange(0, 60, 2)
    embeddings = normalize(torch.randn(30, 24), dim=1)
    objective.fit_teacher(TeacherEmbeddings(embeddings, good))
    assert (objective.clusters[1::2] == -1).all()
    seen: list[Tensor] = []
    module.register_forward_hook(lambda _, __, features: seen.append(features))
    batch = Batch(torch.randn(8, 3, 16, 16), embeddings[:8], good[:8])
    loss, _ = objective(module.train(), batch)
    (gradient,) = torch.autograd.grad(loss, seen[0])
    features = seen[0].detach().double().requires_grad_()
    nearest = k_means(embeddings, 5, settings.seed, torch.device("cpu")).nearest
    weight, bias = objective.classifier.weight.double(), objective.classifier.bias.double()
    expected = torch.zeros((), dtype=torch.float64)
    for number, feature in enumerate(features):
        powers = torch.stack([(row @ feature + shift).exp() for row, shift in zip(weight, bias, strict=True)])
        expected = expected - (powers[nearest[number]] / powers.sum()).log() / 8
    (expected_gradient,) = torch.autograd.grad(expected, features)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(
        gradient.double(), expected_gradient, rtol=1e-5, atol=1e-5 * float(expected_gradient.abs().max())
    )


def test_stage_clusters_view_0_once(trained: Trained, store: Path, tmp_path: Path) -> None:
    trained(objective="cc", clusters=4)
    saved = torch.load(tmp_path / "student" / "checkpoint.pt")["modules"]["objective.clusters"]
    view = torch.from_numpy(zarr.open_group(store, mode="r")["train"]["embeddings"][0].astype(np.float32))
    assert torch.equal(saved, k_means(normalize(view, dim=1), 4, 0, torch.device("cpu")).nearest)


def test_number_of_clusters_fits_the_data(trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    trained(objective="cc", epochs=1)
    assert "'student': 2 clusters of 29 images." in caplog.text
    with pytest.raises(InputError, match=r"--clusters 30 is more than the 29 good images"):
        trained("other", objective="cc", clusters=30)
    assert not (tmp_path / "other").exists()
