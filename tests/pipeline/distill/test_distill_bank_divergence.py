"""CompRess's loss over memory banks and its gradient, against a loop over images in float64."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from compress_ssl.pipeline.distill.objectives.bank_divergence import bank_divergence

IMAGES, ANCHORS, DIM = 7, 19, 6


def unit(count: int, dim: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return normalize(torch.randn(count, dim, dtype=dtype), dim=1)


def loop(
    teacher: Tensor, queries: Tensor, banks: tuple[Tensor, Tensor], masked: Tensor, own: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Loss and perplexity at T = 0.04, the teacher's 0.02."""
    losses, perplexities = [], []
    for number in range(len(queries)):
        anchors = [bank[~masked[number]] for bank in banks]
        if own is not None:
            anchors = [torch.cat([own[number : number + 1], rows]) for rows in anchors]
        p = torch.softmax(anchors[0] @ teacher[number] / 0.02, dim=0)
        q = torch.softmax(anchors[1] @ queries[number] / 0.04, dim=0)
        losses.append((p * (p.log() - q.log())).sum())
        perplexities.append((-(p * p.log()).sum()).exp())
    return torch.stack(losses).mean(), torch.stack(perplexities).mean()


@pytest.mark.parametrize("tile", [1, 40, 10_000])
@pytest.mark.parametrize("has_mask", [False, True])
@pytest.mark.parametrize("has_own", [False, True])
def test_loss_and_gradient_are_those_of_a_loop(tile: int, has_mask: bool, has_own: bool) -> None:
    torch.manual_seed(0)
    dim = DIM if has_own else 4
    banks, teacher = (unit(ANCHORS, DIM), unit(ANCHORS, dim)), unit(IMAGES, DIM)
    masked = (torch.rand(IMAGES, ANCHORS) < 0.3) & has_mask
    own = unit(IMAGES, DIM) if has_own else None
    ours = unit(IMAGES, dim).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()

    loss, logged = bank_divergence(
        teacher, ours, *banks, 0.04, 0.02, masked=masked if has_mask else None, own_anchor=own, tile=tile
    )
    expected, perplexity = loop(teacher, theirs, banks, masked, own)
    (loss / 3).backward()  # as one of three micro-batches
    (expected / 3).backward()

    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(logged["teacher_perplexity"], perplexity, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-11, atol=1e-12)


def test_loss_is_finite_at_temperatures_whose_exponentials_are_not() -> None:
    torch.manual_seed(0)
    bank, teacher, queries = (unit(count, DIM, torch.float32) for count in (ANCHORS, IMAGES, IMAGES))
    loss, logged = bank_divergence(teacher, queries.requires_grad_(), bank, bank, 1e-3)
    loss.backward()
    assert loss.isfinite()
    assert queries.grad is not None
    assert queries.grad.isfinite().all()
    assert 1 <= logged["teacher_perplexity"] < 1.1


def test_nothing_of_a_batch_by_anchors_is_kept_for_the_backward_pass() -> None:
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        bank_divergence(unit(IMAGES, DIM), unit(IMAGES, DIM).requires_grad_(), *[unit(ANCHORS, DIM)] * 2, 0.04)
    assert [tuple(tensor.shape) for tensor in kept] == [(IMAGES, DIM)]


@pytest.mark.parametrize("temperature", [0.04, 1.0])
@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 0.02), (torch.float16, 0.005)])
def test_gradient_of_half_precision_banks_is_close(dtype: torch.dtype, error: float, temperature: float) -> None:
    torch.manual_seed(0)
    bank, teacher, drawn = (unit(count, 32, torch.float32) for count in (20_000, 64, 64))
    gradients = []
    for rows in (bank, bank.to(dtype)):
        queries = drawn.clone().requires_grad_()
        loss, _ = bank_divergence(teacher, queries, rows, rows, temperature)
        (loss / 16).backward()
        assert queries.grad is not None
        gradients.append(queries.grad)
    exact, half = gradients
    assert half.dtype == torch.float32
    assert (half - exact).norm() < error * exact.norm()
