"""The memory bank, against a plain list of the last rows."""

import pytest
import torch
from torch.nn.functional import normalize

from compress_ssl.pipeline.training.memory_bank import MemoryBank


def rows(count: int, first: int = 0, dim: int = 3) -> torch.Tensor:
    return (first + torch.arange(count)).float()[:, None].expand(count, dim)


def test_noise_is_uniform_within_one_over_the_root_of_a_third_of_the_dimension() -> None:
    torch.manual_seed(0)
    noise = MemoryBank(2000, 48).rows
    assert noise.dtype == torch.float32
    assert noise.abs().max() < 0.25
    assert noise.abs().max() > 0.2499
    assert noise.mean().abs() < 0.005
    assert noise.var() == pytest.approx(0.5**2 / 12, rel=0.02)
    assert noise.norm(dim=1).mean() == pytest.approx(1, rel=0.01)


def test_bank_holds_the_last_rows_first_in_first_out() -> None:
    for batch in [1, 3, 5, 12]:
        for size in [1, 5, 7, 8, 30]:
            bank = MemoryBank(size, 3)
            expected = [row.clone() for row in bank.rows]
            place = 0
            for start in range(0, 40, batch):
                entering = rows(batch, start)
                after = bank.rows_after(entering)
                bank.enqueue(entering)
                assert torch.equal(after, bank.rows)
                for row in entering:
                    expected[place] = row
                    place = (place + 1) % size
                torch.testing.assert_close(bank.rows, torch.stack(expected), rtol=0, atol=0)


def test_skipping_is_entering_without_a_trace() -> None:
    torch.manual_seed(0)
    bank, other = MemoryBank(7, 3), MemoryBank(7, 3)
    noise = other.rows.clone()
    other.load_state_dict(bank.state_dict())
    bank.enqueue(rows(4))
    bank.enqueue(rows(2, 4))
    other.skip(4)
    other.enqueue(rows(2, 4))
    torch.testing.assert_close(other.rows[4:6], bank.rows[4:6], rtol=0, atol=0)
    assert not torch.equal(noise[:4], bank.rows[:4])
    other.skip(15)
    other.enqueue(rows(1, 100))
    assert (other.rows[0] == 100).all()


def test_rows_do_not_follow_what_they_were_copied_from() -> None:
    bank = MemoryBank(4, 3)
    entering = torch.ones(2, 3, requires_grad=True)
    bank.enqueue(entering)
    with torch.no_grad():
        entering.mul_(2)
    assert (bank.rows[:2] == 1).all()
    assert not bank.rows.requires_grad


def test_half_precision_is_close_and_half_the_size() -> None:
    for dtype, tolerance in [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)]:
        torch.manual_seed(0)
        whole, half = MemoryBank(500, 32), MemoryBank(500, 32, dtype)
        entering = normalize(torch.randn(500, 32), dim=1)
        whole.enqueue(entering)
        half.enqueue(entering)
        queries = normalize(torch.randn(20, 32), dim=1)
        assert half.rows.nbytes * 2 == whole.rows.nbytes
        similarities = half.similarities(queries)
        assert similarities.dtype == torch.float32
        assert (similarities - queries @ entering.T).abs().max() < 2 * tolerance
