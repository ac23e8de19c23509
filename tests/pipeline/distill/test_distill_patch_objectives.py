"""The losses on patches against float64 numpy."""

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


def projected(weight: F64, bias: F64) -> F64:
    """(B, P, K), position by position."""
    return np.stack([MAP[:, :, row, column] @ weight.T + bias for row, column in np.ndindex(GRID, GRID)], axis=1)


def distributions(rows: F64, temperature: float) -> F64:
    """Of each position over those of its image."""
    unit = rows / np.linalg.norm(rows, axis=2, keepdims=True)
    similarities = np.exp(np.einsum("bpd,bqd->bpq", unit, unit) / temperature)
    return similarities / similarities.sum(axis=2, keepdims=True)


def similarity_loss(weight: F64, bias: F64) -> float:
    """Of the channels that the patches stand for, not of their components."""
    p, q = distributions(MEAN + PATCHES @ BASIS, 0.07), distributions(projected(weight, bias), 0.07)
    return float((p * (np.log(p) - np.log(q))).sum(axis=2).mean())


def regression_loss(weight: F64, bias: F64) -> float:
    difference = np.abs(projected(weight, bias) - PATCHES / np.sqrt((PATCHES**2).mean()))
    return float(np.where(difference < 1, difference**2 / 2, difference - 0.5).mean())


@pytest.mark.parametrize(
    ("kind", "reference"), [(PatchSimilarity, similarity_loss), (PatchRegression, regression_loss)]
)
def test_loss_and_gradients_are_those_of_float64(
    kind: type[PatchObjective], reference: Callable[[F64, F64], float]
) -> None:
    torch.manual_seed(0)
    objective = kind(STUDENT, single(MEAN), single(BASIS))
    torch.nn.init.normal_(objective.projection.weight)
    objective.fit_teacher(single(PATCHES))
    weight, bias = (each.detach().double().numpy() for each in (objective.projection.weight, objective.projection.bias))
    loss = objective(single(MAP), single(PATCHES))
    loss.backward()
    assert loss.item() == pytest.approx(reference(weight, bias), rel=1e-5)
    gradient = objective.projection.weight.grad
    assert gradient is not None
    numeric = np.zeros_like(weight)
    for place in np.ndindex(weight.shape):
        step = np.zeros_like(weight)
        step[place] = 1e-6
        numeric[place] = (reference(weight + step, bias) - reference(weight - step, bias)) / 2e-6
    np.testing.assert_allclose(gradient.numpy(), numeric, rtol=1e-4, atol=1e-5)


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
