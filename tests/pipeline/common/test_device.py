"""The device of a process, and the precision that it computes in."""

import pytest

from compress_ssl.pipeline.common.device import gpu_of_rank
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.torchrun import TorchrunEnv


@pytest.mark.parametrize(("local_rank", "visible", "expected"), [(0, 1, 0), (3, 1, 0), (3, 4, 3), (3, 8, 3)])
def test_rank_takes_the_gpu_of_its_number_or_the_only_one_it_sees(local_rank: int, visible: int, expected: int) -> None:
    assert gpu_of_rank(TorchrunEnv(3, 4, local_rank, 4), visible) == expected


def test_fewer_gpus_than_ranks_are_refused() -> None:
    with pytest.raises(InputError, match="4 processes were started on this machine, which has 2 GPUs; start one per"):
        gpu_of_rank(TorchrunEnv(3, 4, 3, 4), 2)
