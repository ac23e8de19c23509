"""Full memory, real: a process that may have 2 GB ends with one sentence; the store is finished in smaller batches."""

from collections.abc import Callable
from pathlib import Path

from compress_ssl.storage import open_store
from tests.processes import Forked, run_in_little_memory

SIZE = ("--teacher", "random/conv4-16", "--size", "900", "--resize", "900", "--threads", "1", "--device", "cpu")
FULL = "Error: The memory was full for 'random/conv4-16' at --batch-size 24 on cpu; lower --batch-size, or end other "


def run(*words: object) -> tuple[int, str]:
    process = Forked(run_in_little_memory, *map(str, words))
    code = process.wait()
    assert "Traceback" not in process.errors
    return code, process.errors.splitlines()[-1]


def test_teacher_that_memory_does_not_hold_is_a_sentence_and_the_store_is_finished(
    images: Callable[..., Path], tmp_path: Path
) -> None:
    """A batch of the 4 images in ``train`` fits, one of the 24 in ``val`` does not."""
    data, store = images(tmp_path / "data", train=4, val=24), tmp_path / "s.zarr"
    words = ("embed", data, store, *SIZE, "--split", "train:0", "--split", "val:0", "--block-rows", "24")
    code, last = run(*words, "--batch-size", "24")
    assert code == 1
    assert last == f"{FULL}programs. What is committed stays: run the same command again, with --resume if it has it."
    committed = {name: open_store(store)[name].committed_blocks(0) for name in ("train", "val")}
    assert committed == {"train": 1, "val": 0}
    assert run(*words, "--batch-size", "2", "--resume")[0] == 0
    assert open_store(store).is_complete
