"""UNIC against float64 numpy; standardisation by its properties; several teachers, of which some are dropped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file
from scipy.linalg import hadamard
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill.multi_teacher import MultiTeacher, drop_teachers
from compress_ssl.pipeline.distill.objectives.hadamard import core_order, hadamard_matrix
from compress_ssl.pipeline.distill.objectives.objective import Batch, TeacherEmbeddings
from compress_ssl.pipeline.distill.objectives.standardisation import fit_mean_std, fit_phi_s
from compress_ssl.pipeline.distill.objectives.unic import UNIC
from compress_ssl.pipeline.distill.run import distill_together
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.recipe.live_evaluation import live_evaluation
from compress_ssl.storage import open_store

Students = Callable[..., DistillSettings]
Trained = Callable[..., dict[str, Tensor]]
Array = npt.NDArray[np.float64]

CPU = torch.device("cpu")
TWO_TEACHERS = {"objective": "unic", "store_weights": (1, 3), "learning_rate": 0.02, "head": "linear"}


def skewed(images: int, dim: int) -> Tensor:
    """Embeddings as of a network: correlated, off the origin, dimensions of very different scales."""
    generator = torch.Generator().manual_seed(dim)
    mixed = torch.randn(images, dim, generator=generator) @ torch.randn(dim, dim, generator=generator)
    return mixed * torch.logspace(-2, 1, dim) + 5


def test_hadamard_matrices_have_orthogonal_rows_of_ones() -> None:
    for order in (1, 2, 4, 12, 28, 36, 192, 384, 512, 768, 1024, 1152, 1280, 1408, 1536, 1664, 2048):
        matrix = hadamard_matrix(order).float()
        assert matrix.abs().eq(1).all(), order
        assert torch.equal(matrix @ matrix.T, order * torch.eye(order)), order
    np.testing.assert_array_equal(hadamard_matrix(64).numpy(), hadamard(64))
    assert [core_order(order) for order in (1792, 2304, 2560, 4096, 8192)] == [28, 36, 20, 1, 1]
    assert all(core_order(order) % 4 == 0 or core_order(order) == 1 for order in range(64, 2689, 64))


def test_dimension_without_a_hadamard_matrix_is_refused_for_phi_s_alone() -> None:
    for dim in (3, 92, 100, 998):
        with pytest.raises(InputError, match=f"for {dim} no construction is known here; take --standardisation mean"):
            UNIC(nn.Linear(6, 16), teacher_dim=dim, standardisation="phi-s")
        UNIC(nn.Linear(6, 16), teacher_dim=dim)


def test_mean_std_is_that_of_sklearn_and_a_dimension_that_never_varies_becomes_zero() -> None:
    embeddings = skewed(5000, 24)
    embeddings[:, 3] = 7.3
    mean, scale = fit_mean_std(embeddings, CPU)
    standardised = (embeddings.double() - mean) * scale
    torch.testing.assert_close(standardised, torch.from_numpy(StandardScaler().fit_transform(embeddings.double())))
    assert standardised[:, 3].abs().max() < 1e-9


def test_dimension_that_hardly_varies_is_magnified_a_thousand_times_more_than_the_rest_at_most() -> None:
    embeddings = skewed(500, 24)
    embeddings[:, 3] = 7 + 1e-5 * torch.randn(500)
    overall = embeddings.double().var(dim=0, correction=0).mean().sqrt()
    assert float(fit_mean_std(embeddings, CPU)[1][3] * overall) == pytest.approx(1000)


@pytest.mark.parametrize(("images", "dim"), [(5000, 32), (20, 64)])
def test_phi_s_gives_all_dimensions_variance_one_and_keeps_the_proportions_of_distances(images: int, dim: int) -> None:
    embeddings = skewed(images, dim)
    mean, scale = fit_phi_s(embeddings, CPU)
    standardised = ((embeddings.double() - mean) @ scale).numpy()
    covariance = np.cov(embeddings.double().numpy().T, bias=True)
    eigenvalues = np.linalg.eigvalsh(covariance)
    rotation = hadamard(dim) / np.sqrt(dim)
    assert np.abs(standardised.mean(axis=0)).max() < 1e-9
    ours = np.cov(standardised.T, bias=True)
    np.testing.assert_allclose(np.diagonal(ours), 1, rtol=1e-9)
    np.testing.assert_allclose(ours, rotation @ np.diag(eigenvalues / eigenvalues.mean()) @ rotation.T, atol=1e-9)
    distances, before = (
        np.linalg.norm(rows[:10, None] - rows[None, :10], axis=2)
        for rows in (standardised, embeddings.double().numpy())
    )
    np.testing.assert_allclose(distances * np.sqrt(np.trace(covariance) / dim), before, rtol=1e-9)


def test_embeddings_that_are_all_equal_are_refused() -> None:
    embeddings = torch.full((10_000, 12), 0.1) * torch.arange(12)
    for fit in (fit_mean_std, fit_phi_s):
        with pytest.raises(InputError, match="embeddings of all images are equal, so they cannot be standardised"):
            fit(embeddings, CPU)


def standardised(kind: str, embeddings: Array, everything: Array) -> Array:
    """The textbook's, of the embeddings of a batch by those of all images."""
    if kind == "none":
        return embeddings
    mean = everything.mean(axis=0)
    if kind == "mean-std":
        return (embeddings - mean) / everything.std(axis=0)
    eigenvalues, axes = np.linalg.eigh(np.cov(everything.T, bias=True))
    axes = np.stack([axis if axis[np.abs(axis).argmax()] > 0 else -axis for axis in axes.T])
    rotation = hadamard(len(axes)) / np.sqrt(len(axes))
    return np.stack([rotation @ axes @ (each - mean) / np.sqrt(eigenvalues.mean()) for each in embeddings])


def textbook(projected: Array, teacher: Array) -> tuple[Array, Array]:
    """Loss of each image, and its gradient by the projection."""
    losses, gradients = [], []
    for ours, theirs in zip(projected, teacher, strict=True):
        p, t = np.linalg.norm(ours), np.linalg.norm(theirs)
        cosine = ours @ theirs / (p * t)
        difference = np.abs(ours - theirs)
        smooth = np.where(difference < 1, 0.5 * difference**2, difference - 0.5).mean()
        losses.append(0.5 * (1 - cosine) + 0.5 * smooth)
        gradient_of_cosine = theirs / (p * t) - cosine * ours / p**2
        gradients.append(-0.5 * gradient_of_cosine + 0.5 * np.clip(ours - theirs, -1, 1) / len(ours))
    return np.array(losses), np.array(gradients)


@pytest.mark.parametrize("kind", ["none", "mean-std", "phi-s"])
def test_loss_and_its_gradient_are_the_textbooks(kind: Any) -> None:
    everything = skewed(400, 32)
    objective = UNIC(nn.Linear(6, 16), teacher_dim=32, standardisation=kind)
    objective.fit_teacher(TeacherEmbeddings(everything, torch.arange(400)))
    seen: list[Tensor] = []
    objective.projection.register_forward_hook(lambda _, __, projected: seen.append(projected))
    loss, _ = objective(nn.Linear(6, 16), Batch(10 * torch.randn(12, 6), everything[:12]))
    (gradient,) = torch.autograd.grad(loss, seen[0])
    teacher = standardised(kind, *(rows.double().numpy() for rows in (everything[:12], everything)))
    losses, gradients = textbook(seen[0].detach().double().numpy(), teacher)
    assert loss.item() == pytest.approx(losses.mean(), rel=1e-5)
    np.testing.assert_allclose(gradient, gradients / 12, rtol=1e-5, atol=1e-5 * np.abs(gradients / 12).max())


def test_loss_before_fit_teacher_is_nan_unless_nothing_is_standardised() -> None:
    student, batch = nn.Linear(6, 16), Batch(torch.randn(8, 6), torch.randn(8, 32))
    assert UNIC(student, teacher_dim=32)(student, batch)[0].isnan()
    assert UNIC(student, teacher_dim=32, standardisation="none")(student, batch)[0].isfinite()


@pytest.mark.parametrize("weights", [(1 / 3, 1 / 3, 1 / 3), (0.2, 0.3, 0.5)])
@pytest.mark.parametrize("probability", [0, 0.5, 1])
def test_mean_over_kept_teachers_is_the_published_one(weights: tuple[float, ...], probability: float) -> None:
    torch.manual_seed(0)
    losses = torch.rand(3, 200)
    torch.manual_seed(1)
    draws = torch.rand(3, 200)
    torch.manual_seed(1)
    ours = (drop_teachers(losses, weights, probability) * losses).sum()
    kept = [
        (weights[teacher], losses[teacher, image].item())
        for image in range(200)
        for teacher in range(3)
        if teacher == int(losses[:, image].argmax()) or draws[teacher, image] >= probability
    ]
    assert ours.item() == pytest.approx(sum(w * loss for w, loss in kept) / sum(w for w, _ in kept), rel=1e-5)
    assert len(kept) == {0: 600, 1: 200}.get(probability, pytest.approx(400, abs=50))


def test_dropped_teachers_have_no_gradient_and_all_count_in_evaluation_mode() -> None:
    torch.manual_seed(0)
    student, images, stored = nn.Linear(6, 16), torch.randn(40, 6), [skewed(40, 32), skewed(40, 24)]
    objectives = [UNIC(student, teacher_dim=each.shape[1], teacher_dropping=1) for each in stored]
    for objective, embeddings in zip(objectives, stored, strict=True):
        objective.fit_teacher(TeacherEmbeddings(embeddings, torch.arange(40)))
    several = MultiTeacher(objectives, (0.25, 0.75))
    batches = [Batch(images, embeddings) for embeddings in stored]
    alone = [
        objective.compute_loss(student(images), batch)[0] for objective, batch in zip(objectives, batches, strict=True)
    ]
    worst = torch.stack(alone).argmax(dim=0)
    assert 0 < worst.sum() < 40
    loss, logged = several(student, *batches)
    (gradient,) = torch.autograd.grad(loss, student.weight)
    weights = torch.where(worst == 0, 0.25, 0.75)
    expected = (weights * torch.stack(alone).amax(dim=0)).sum() / weights.sum()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, student.weight, retain_graph=True)[0])
    assert float(logged["kept_1"]) == pytest.approx(float((worst == 0).float().mean()))
    torch.testing.assert_close(logged["loss_2"], alone[1].mean().detach())
    loss, logged = several.eval()(student, *batches)
    torch.testing.assert_close(loss, 0.25 * alone[0].mean() + 0.75 * alone[1].mean())
    assert "kept_1" not in logged


def test_statistics_are_those_of_view_0_of_the_store_as_it_is(trained: Trained, student: Students, store: Path) -> None:
    trained(objective="unic", epochs=1)
    mean = torch.load(student().run / "checkpoint.pt")["modules"]["objective.teacher_mean"]
    np.testing.assert_allclose(mean, open_store(store)["train"].view(0).astype(np.float64).mean(axis=0), rtol=1e-6)


def test_killed_runs_with_dropped_teachers_go_on_and_end_as_each_alone_bit_for_bit(
    student: Students, trained: Trained, store: Path, other: Path, killed_after: Any, assert_same: Any, metrics: Any
) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "two": {**TWO_TEACHERS, "also_store": (other,), "standardisation": "phi-s"},
        "banks": {},
        "three": {"objective": "unic", "also_store": (other, store), "teacher_dropping": 0.9},
        "never": {**TWO_TEACHERS, "also_store": (other,), "standardisation": "phi-s", "teacher_dropping": 0},
    }
    students = [student(name, **kind, accumulation=2) for name, kind in kinds.items()]
    for steps in (2, 3):
        killed_after(steps, students)
        students = [each.model_copy(update={"resume": True}) for each in students]
    models = distill_together(students, Silent(), live_evaluation)
    weights = {name: load_file(model) for name, model in zip(kinds, models, strict=True)}
    for name, kind in kinds.items():
        assert_same(weights[name], trained(f"alone-{name}", **kind, accumulation=2))
        assert metrics(student(name).run) == metrics(student(f"alone-{name}").run)
    assert not torch.equal(weights["two"]["0.weight"], weights["never"]["0.weight"])
