"""SEED, anchors, temperatures, own rows and the teacher's mean, against float64 loops over images and anchors."""

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from torch import Tensor, nn

from compress_ssl.pipeline.distill.objectives.objective import Batch, TeacherEmbeddings
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.distill.task import build_objective
from compress_ssl.pipeline.networks.architectures import build_backbone

Students = Callable[..., DistillSettings]
Trained = Callable[..., dict[str, Tensor]]

D = 24
"""Dimensions of the teacher; the student has 16."""


def unit(rows: Tensor) -> Tensor:
    return rows / rows.square().sum(dim=1, keepdim=True).sqrt()


def made(settings: DistillSettings) -> tuple[nn.Module, Any, Batch]:
    """A student, its objective with a bank of images 0 to 29, and a batch of images 6 to 11."""
    module, feature_dim = build_backbone("conv4-16", settings.seed)
    torch.manual_seed(settings.seed)
    objective: Any = build_objective(
        settings, settings.objective_options, module, student_dim=feature_dim, teacher_dim=D, images=100
    )
    objective.teacher_bank.enqueue(unit(torch.randn(30, D)), torch.arange(30))
    return (
        module.train(),
        objective.train(),
        Batch(torch.randn(6, 3, 16, 16), unit(torch.randn(6, D)), torch.arange(6, 12)),
    )


def softmax(logits: list[Tensor]) -> list[Tensor]:
    powers = [each.exp() for each in logits]
    return [each / torch.stack(powers).sum() for each in powers]


def textbook(settings: DistillSettings, queries: Tensor, bank: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """SEED's cross-entropy or CompRess-1q's over the anchors, the teacher's entropy, and its perplexity."""
    cross, entropy, perplexity = [], [], []
    for query, own, row in zip(queries, batch.teacher_embeddings.double(), batch.rows, strict=True):
        anchors = [anchor for number, anchor in enumerate(bank) if not (settings.mask_own and number == row)]
        if settings.objective == "seed":
            anchors = [own, *anchors]
        p = softmax([anchor @ own / (settings.teacher_temperature or settings.temperature) for anchor in anchors])
        q = softmax([anchor @ query / settings.temperature for anchor in anchors])
        cross.append(-sum((a * b.log() for a, b in zip(p, q, strict=True)), torch.zeros(())))
        entropy.append(-sum((a * a.log() for a in p), torch.zeros(())))
        perplexity.append(entropy[-1].exp())
    means = (torch.stack(each).mean() for each in (cross, entropy, perplexity))
    return next(means), next(means), next(means)


@pytest.mark.parametrize(
    ("name", "temperatures"),
    [
        ("seed", {"teacher_temperature": 0.05}),
        ("seed", {"temperature": 0.1, "teacher_temperature": 0.1}),
        ("compress-1q", {}),
        ("compress-1q", {"temperature": 0.2, "teacher_temperature": 0.07}),
    ],
)
def test_loss_gradient_and_perplexity_are_the_textbooks(
    student: Students, name: str, temperatures: dict[str, float]
) -> None:
    for mask_own in (False, True):
        check_loss(student(objective=name, bank_size=30, mask_own=mask_own, **temperatures))


def check_loss(settings: DistillSettings) -> None:
    module, objective, batch = made(settings)
    seen: list[Tensor] = []
    objective.projection.register_forward_hook(lambda _, __, projected: seen.append(projected))
    loss, diagnostics = objective(module, batch)
    (gradient,) = torch.autograd.grad(loss, seen[0])
    projected = seen[0].detach().double().requires_grad_()
    cross, entropy, perplexity = textbook(settings, unit(projected), objective.teacher_bank.rows.double(), batch)
    (expected,) = torch.autograd.grad(cross, projected)
    assert loss.item() == pytest.approx((cross - entropy).item(), rel=1e-5)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert float(diagnostics["teacher_perplexity"]) == pytest.approx(perplexity.item(), rel=1e-5)


def test_defaults_are_the_papers(student: Students) -> None:
    given = student(objective="seed", bank_size=65_536)
    assert (given.temperature, given.teacher_temperature) == (0.2, 0.01)
    assert DistillSettings(store="a", data="b", run="c", student="d", objective="seed").bank_size == 65_536
    assert student(objective="crd").temperature == 0.07
    assert student(objective="compress-1q").temperature == 0.04


def test_batch_enters_the_queue_after_the_step(student: Students) -> None:
    module, objective, batch = made(student(objective="seed", bank_size=30, mask_own=True))
    before = copy.deepcopy(objective.teacher_bank.rows)
    for images, embeddings, rows in zip(*(field.chunk(2) for field in batch[:3]), strict=True):
        objective(module, Batch(images, embeddings, rows))
    assert torch.equal(objective.teacher_bank.rows, before)
    objective.after_step(module)
    assert torch.equal(objective.teacher_bank.rows, torch.cat([batch.teacher_embeddings, before[6:]]))
    assert objective.teacher_bank.images.tolist() == [*range(6, 12), *range(6, 30)]


def everything() -> TeacherEmbeddings:
    generator = torch.Generator().manual_seed(4)
    return TeacherEmbeddings(unit(torch.randn(50, D, generator=generator).relu()), 2 * torch.arange(50))


def test_random_anchors_are_different_images_and_stay(student: Students) -> None:
    module, objective, batch = made(student(objective="compress-1q", bank_size=30, anchors="random", mask_own=True))
    objective.fit_teacher(everything())
    bank = objective.teacher_bank
    rows, images = bank.rows.clone(), bank.images.tolist()
    assert len(set(images)) == 30
    assert images != sorted(images)
    assert torch.equal(rows, torch.stack([everything().embeddings[image // 2] for image in images]))
    objective(module, batch)
    objective.after_step(module)
    assert torch.equal(bank.rows, rows)


def test_k_means_anchors_are_the_means_of_the_images_nearest_to_them(student: Students) -> None:
    _, objective, _ = made(student(objective="compress-1q", bank_size=5, anchors="k-means"))
    images = everything().embeddings
    kinds = unit(torch.randn(5, D))
    images = unit(kinds.repeat(10, 1) + 0.01 * images)
    objective.fit_teacher(TeacherEmbeddings(images, torch.arange(50)))
    nearest = (images @ objective.teacher_bank.rows.T).argmax(dim=1)
    assert sorted(nearest.bincount(minlength=5).tolist()) == [10] * 5
    means = unit(torch.stack([images[nearest == number].mean(dim=0) for number in range(5)]))
    torch.testing.assert_close(objective.teacher_bank.rows, means, rtol=0, atol=1e-5)


def test_the_teachers_mean_is_subtracted_from_all_that_is_compared(student: Students) -> None:
    for name in ("compress-1q", "compress-2q", "seed"):
        module, objective, batch = made(student(objective=name, bank_size=30, centre=True))
        objective.fit_teacher(everything())
        images = everything().embeddings.double()
        centred = objective.transform_teacher(everything().embeddings)
        torch.testing.assert_close(centred.double(), unit(images - images.mean(dim=0)), rtol=1e-5, atol=1e-6)
        objective(module, batch)  # centres the batch itself
        objective.after_step(module)
        expected = objective.transform_teacher(batch.teacher_embeddings)
        assert torch.equal(objective.teacher_bank.rows[:6], expected)


def test_stage_centres_by_the_mean_of_view_0(trained: Trained, store: Path, tmp_path: Path) -> None:
    trained(objective="compress-1q", centre=True, anchors="random", epochs=1)
    saved = torch.load(tmp_path / "student" / "checkpoint.pt")["modules"]
    stored = zarr.open_group(store, mode="r")["train"]["embeddings"][0].astype(np.float64)
    view = unit(torch.from_numpy(stored))
    torch.testing.assert_close(saved["objective.teacher_mean"].double(), view.mean(dim=0), rtol=1e-5, atol=1e-6)
    centred = unit(view - view.mean(dim=0))
    apart = torch.cdist(saved["objective.teacher_bank.rows"].double(), centred).min(dim=1).values
    assert apart.max() < 1e-5


def test_perplexity_is_in_the_log_and_falls_with_the_mean_subtracted(
    trained: Trained, metrics: Any, tmp_path: Path
) -> None:
    perplexities = []
    for name, centre in itertools.product(("compress-1q", "compress-2q", "seed"), (False, True)):
        trained(f"{name}-{centre}", objective=name, centre=centre, epochs=1, prefill=True)
        perplexities.append(metrics(tmp_path / f"{name}-{centre}")[0]["teacher_perplexity"])
    assert all(1 <= centred < plain <= 21 for plain, centred in zip(perplexities[::2], perplexities[1::2], strict=True))
