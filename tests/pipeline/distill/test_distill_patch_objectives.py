"""The losses on patches and their gradients against float64."""

import doctest
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from compress_ssl.pipeline.distill.objectives import patches
from compress_ssl.pipeline.distill.objectives.patches import PatchObjective, PatchRegression, PatchSimilarity, to_grid

F64 = npt.NDArray[np.float64]

generator = np.random.default_rng(0)
CHANNELS, COMPONENTS, STUDENT, GRID = 7, 4, 6, 3
MEAN = generator.normal(size=CHANNELS)
BASIS = np.linalg.qr(generator.normal(size=(CHANNELS, COMPONENTS)))[0].T
MAP = generator.normal(size=(5, STUDENT, GRID, GRID))
PATCHES = generator.normal(size=(5, GRID * GRID, COMPONENTS))


def single(values: F64) -> Tensor:
    return torch.from_numpy(values).float()


def projected(weight: Tensor, bias: Tensor) -> Tensor:
    """(B, P, K), position by position."""
    positions = [torch.from_numpy(MAP[:, :, row, column]) for row, column in np.ndindex(GRID, GRID)]
    return torch.stack([channels @ weight.T + bias for channels in positions], dim=1)


def distributions(rows: Tensor, temperature: float) -> Tensor:
    """Of each position over those of its image."""
    unit = rows / rows.square().sum(dim=2, keepdim=True).sqrt()
    similarities = (torch.einsum("bpd,bqd->bpq", unit, unit) / temperature).exp()
    return similarities / similarities.sum(dim=2, keepdim=True)


def similarity_loss(weight: Tensor, bias: Tensor) -> Tensor:
    """Of the channels that the patches stand for, not of their components."""
    p = distributions(torch.from_numpy(MEAN + PATCHES @ BASIS), 0.07)
    q = distributions(projected(weight, bias), 0.07)
    return (p * (p.log() - q.log())).sum(dim=2).mean()


def regression_loss(weight: Tensor, bias: Tensor) -> Tensor:
    difference = (projected(weight, bias) - torch.from_numpy(PATCHES / np.sqrt((PATCHES**2).mean()))).abs()
    return torch.where(difference < 1, difference**2 / 2, difference - 0.5).mean()


@pytest.mark.parametrize(
    ("kind", "reference"), [(PatchSimilarity, similarity_loss), (PatchRegression, regression_loss)]
)
def test_loss_and_gradients_are_those_of_float64(
    kind: type[PatchObjective], reference: Callable[[Tensor, Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    objective = kind(STUDENT, single(MEAN), single(BASIS))
    layer = objective.projection
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    objective.fit_teacher(single(PATCHES))
    loss = objective(single(MAP), single(PATCHES))
    loss.backward()
    weight, bias = (each.detach().double().requires_grad_() for each in (layer.weight, layer.bias))
    wanted = reference(weight, bias)
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    for ours, theirs in ((layer.weight, weight), (layer.bias, bias)):
        assert ours.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=1e-6)


def test_a_regression_that_was_not_fitted_has_no_loss() -> None:
    objective = PatchRegression(STUDENT, single(MEAN), single(BASIS))
    assert objective.needs_fit
    assert objective(single(MAP), single(PATCHES)).isnan()


def test_a_larger_map_is_averaged_and_a_smaller_one_interpolated() -> None:
    torch.testing.assert_close(to_grid(single(MAP), 1)[:, 0], single(MAP.mean(axis=(2, 3))))
    corners = torch.arange(4.0).view(1, 1, 2, 2)
    wanted = [0, 0.25, 0.75, 1, 0.5, 0.75, 1.25, 1.5, 1.5, 1.75, 2.25, 2.5, 2, 2.25, 2.75, 3]  # by hand
    torch.testing.assert_close(to_grid(corners, 4).flatten(), torch.tensor(wanted))


def test_projecting_first_gives_the_same() -> None:
    layer = torch.nn.Linear(STUDENT, 2)
    for grid in (2, 5):
        before = to_grid(layer(single(MAP).permute(0, 2, 3, 1)).permute(0, 3, 1, 2), grid)
        torch.testing.assert_close(layer(to_grid(single(MAP), grid)), before)


def test_the_examples_run() -> None:
    names = {"torch": torch}
    assert doctest.testmod(patches, extraglobs=names) == (0, 9)
