"""How the images of a batch are parted among processes, and what the environment must say of them."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.torchrun import TorchrunEnv, torchrun_env
from compress_ssl.pipeline.training.distributed import check_batch_divides, local_batch_size, rank_batches, rank_indices
from compress_ssl.pipeline.training.schedule import epoch_order, images_per_epoch
from compress_ssl.pipeline.training.settings import TrainingSettings

ENVIRONMENT = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node1", "MASTER_PORT": "1",
}  # fmt: skip


@pytest.fixture
def be_process() -> Iterator[Callable[[int, int], None]]:
    """Become one of so many processes, none of which is there: torch's group that sends nothing."""

    def be(rank: int, processes: int) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=processes)

    yield be
    dist.destroy_process_group()


@pytest.mark.parametrize(("images", "batch_size", "processes"), [(36, 12, 3), (40, 8, 2), (31, 12, 4), (25, 12, 3)])
def test_slices_of_the_processes_are_every_batch_in_its_order_without_gaps_or_repeats(
    be_process: Callable[[int, int], None], images: int, batch_size: int, processes: int
) -> None:
    order = epoch_order(np.arange(images), seed=3, epoch=1)
    own = []
    for rank in range(processes):
        be_process(rank, processes)
        own.append(rank_indices(order, batch_size))
    size = batch_size // processes
    for step, start in enumerate(range(0, images, batch_size)):
        together = np.concatenate([rows[step * size : (step + 1) * size] for rows in own])
        np.testing.assert_array_equal(together, order[start : start + batch_size])


def test_smaller_last_batch_is_divided_equally_too(be_process: Callable[[int, int], None]) -> None:
    order = epoch_order(np.arange(100), seed=3, epoch=1)
    settings = TrainingSettings(epochs=1, learning_rate=1, schedule="step", batch_size=36, keep_last=True)
    of_ranks = []
    for rank in range(3):
        be_process(rank, 3)
        kept = images_per_epoch(100, settings)
        of_ranks.append(rank_batches(order[:kept], 36))
    assert kept == 99
    assert [[len(batch) for batch in batches] for batches in of_ranks] == [[12, 12, 9]] * 3
    for step, parts in enumerate(zip(*of_ranks, strict=True)):
        np.testing.assert_array_equal(np.concatenate(parts), order[:99][36 * step : 36 * (step + 1)])
    be_process(0, 3)
    assert images_per_epoch(77, settings) == 72  # 5 are too few


def test_one_process_has_the_whole_batch() -> None:
    order = np.arange(10)[::-1].copy()
    np.testing.assert_array_equal(rank_indices(order, 4), order)
    assert local_batch_size(4) == 4
    check_batch_divides(7, micro_batches=3)


def test_batch_that_the_processes_do_not_divide_is_refused(be_process: Callable[[int, int], None]) -> None:
    for batch_size, micro_batches, sentence in [
        (256, 1, "--batch-size 256 is the batch size over all ranks, and 3 processes do not divide it; take 255"),
        (256, 2, "and 3 processes times --accumulation 2 do not divide it; take 252"),
        (2, 1, "take 3 or another multiple"),
    ]:
        be_process(0, 3)
        with pytest.raises(InputError, match=sentence):
            check_batch_divides(batch_size, micro_batches)


def test_the_environment_says_which_process_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torchrun_env() == TorchrunEnv(rank=0, world_size=1, local_rank=0, local_world_size=1)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert torchrun_env() == TorchrunEnv(rank=5, world_size=8, local_rank=1, local_world_size=4)
    monkeypatch.delenv("LOCAL_RANK")
    with pytest.raises(InputError, match="WORLD_SIZE is 8, but LOCAL_RANK is not set; start with torchrun"):
        torchrun_env()
