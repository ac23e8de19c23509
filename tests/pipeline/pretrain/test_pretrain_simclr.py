"""The loss, against the paper's algorithm in a loop, closed forms, and what it must not depend on."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from compress_ssl.pipeline.pretrain.methods import nt_xent_loss, projection_head


def projections(count: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    return first, first + 0.7 * torch.randn(count, dim, generator=generator, dtype=torch.float64)


def algorithm_1(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], temperature: float) -> float:
    """SimCLR, algorithm 1, line by line: z of 2k - 1 and 2k are the two views of image k; l(i, j) is equation 1."""
    n = len(first)
    z = np.empty((2 * n, first.shape[1]))
    for k in range(n):
        z[2 * k], z[2 * k + 1] = first[k], second[k]
    similarity = np.empty((2 * n, 2 * n))
    for i in range(2 * n):
        for j in range(2 * n):
            similarity[i, j] = z[i] @ z[j] / (np.linalg.norm(z[i]) * np.linalg.norm(z[j]))

    def loss(i: int, j: int) -> float:
        among = sum(math.exp(similarity[i, k] / temperature) for k in range(2 * n) if k != i)
        return -math.log(math.exp(similarity[i, j] / temperature) / among)

    return sum(loss(2 * k, 2 * k + 1) + loss(2 * k + 1, 2 * k) for k in range(n)) / (2 * n)


def test_loss_is_that_of_the_papers_algorithm() -> None:
    for count, dim in [(1, 4), (2, 3), (5, 8), (16, 2)]:
        for temperature in [0.05, 0.2, 1.0]:
            first, second = projections(count, dim)
            ours = nt_xent_loss(first, second, temperature)
            assert ours.item() == pytest.approx(algorithm_1(first.numpy(), second.numpy(), temperature), abs=1e-10)
            single = nt_xent_loss(first.float(), second.float(), temperature)
            assert single.item() == pytest.approx(ours.item(), rel=1e-5, abs=1e-5)


def test_closed_forms() -> None:
    for count in [2, 7]:
        for temperature in [0.07, 0.5]:
            # Two views are the same and all images orthogonal: one similarity of 1 against 2B - 2 of 0.
            apart = torch.eye(count, 9, dtype=torch.float64)
            expected = math.log(1 + (2 * count - 2) * math.exp(-1 / temperature))
            assert nt_xent_loss(apart, apart, temperature).item() == pytest.approx(expected, rel=1e-12)
            # Everything is the same: one right answer among 2B - 1 alike.
            same = torch.ones(count, 9, dtype=torch.float64)
            assert nt_xent_loss(same, same, temperature).item() == pytest.approx(math.log(2 * count - 1), rel=1e-12)
            # Two images, and views that are opposite: -1 against two of 0.
            two = torch.eye(2, 9, dtype=torch.float64)
            opposite = math.log(math.exp(-1 / temperature) + 2) + 1 / temperature
            assert nt_xent_loss(two, -two, temperature).item() == pytest.approx(opposite, rel=1e-12)


def test_length_order_and_which_view_is_first_do_not_matter() -> None:
    first, second = projections(12, 5)
    loss = nt_xent_loss(first, second, 0.2).item()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    lengths = 10 ** torch.linspace(-3, 3, 12, dtype=torch.float64)[:, None]
    assert nt_xent_loss(second, first, 0.2).item() == pytest.approx(loss, rel=1e-12)
    assert nt_xent_loss(first[order], second[order], 0.2).item() == pytest.approx(loss, rel=1e-12)
    assert nt_xent_loss(first * lengths, second * lengths.flip(0), 0.2).item() == pytest.approx(loss, rel=1e-12)
    assert nt_xent_loss(first, second.roll(1, dims=0), 0.2).item() > loss + 0.5


def test_gradient_is_that_of_finite_differences() -> None:
    first, second = (view.requires_grad_() for view in projections(4, 3))
    assert torch.autograd.gradcheck(lambda a, b: nt_xent_loss(a, b, 0.3), (first, second))


def test_following_the_gradient_brings_the_views_of_an_image_together() -> None:
    first, second = (view.float().requires_grad_() for view in projections(8, 16))
    optimizer = torch.optim.SGD([first, second], 1.0)
    before = torch.cosine_similarity(first, second).mean().item()
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = nt_xent_loss(first, second, 0.5)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert torch.cosine_similarity(first, second).mean().item() > max(before, 0.97)


def test_inputs_are_left_as_they_were() -> None:
    first, second = projections(4, 3)
    kept = first.clone(), second.clone()
    nt_xent_loss(first, second, 0.2)
    assert torch.equal(first, kept[0])
    assert torch.equal(second, kept[1])


def test_head_is_two_layers_with_a_relu_between() -> None:
    torch.manual_seed(0)
    head = projection_head(20, 6)
    features = torch.randn(5, 20)
    (first, second) = (layer for layer in head if isinstance(layer, nn.Linear))
    hidden = (features @ first.weight.T + first.bias).clamp(min=0)
    assert hidden.shape == (5, 20)
    torch.testing.assert_close(head(features), hidden @ second.weight.T + second.bias, rtol=1e-5, atol=1e-6)
    assert head(features).shape == (5, 6)
    assert sum(weight.numel() for weight in head.parameters()) == 20 * 20 + 20 + 20 * 6 + 6
