"""Killed at any moment and started again, stage one does what is missing, and no more, and leaves the same bytes.

The runs are real processes of the command line under a real SIGKILL; they are forked from one that has imported
everything, because importing takes longer than such a run.
"""

import contextlib
import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compress_ssl.storage import LocalPath, open_store
from compress_ssl.storage.commits import read_records
from compress_ssl.storage.tools.verify import verify_store
from tests.processes import Forked, run_command_until

IMAGES, VIEWS = 40, 5
BLOCKS_IN_FLIGHT = 2
"""One being written, one being computed."""


def run(*words: str | Path, kill_at: tuple[str, int, float] | None = None) -> int:
    """Run ``embed`` to its end or to its killing, and return the exit code.

    ``kill_at`` is (pattern, n, seconds): it is killed seconds after the n-th time that it is about to open or to rename
    a file such that "open PATH" or "os.rename NEW_PATH" matches the pattern.
    """
    return Forked(run_command_until, kill_at, "embed", *map(str, words)).wait()


def random_moments(generator: np.random.Generator, kills: int) -> list[tuple[str, int, float]]:
    """While the store is created.

    Then while a resumed run reads it and while blocks are written; while it is finished.
    """
    creating, starting, working, finishing = (
        (r"store\.zarr\.[0-9a-f]+\.creating/", 300),
        (r"open .*(store\.zarr|data|index)/", 300),
        (r"store\.zarr/train/embeddings/.*partial$|os\.rename .*store\.zarr/train/", 80),
        (r"os\.rename .*commits/\d+\.json$", 3),
    )
    first, last = max(1, kills // 10), round(kills / 7)
    middle = [
        (starting, working, working, working)[number % 4] for number in generator.permutation(kills - first - last)
    ]
    phases = [*[creating] * first, *middle, *[finishing] * last]
    late = generator.uniform(0, 0.02, kills) * generator.integers(0, 2, kills)
    return [
        (pattern, int(generator.integers(1, most)), float(seconds))
        for (pattern, most), seconds in zip(phases, late, strict=True)
    ]


def committed(store: Path) -> dict[tuple[int, int], tuple[int, ...]]:
    """Of each committed (view, row): its chunk's inode and time of writing. A block is a row here."""
    split = LocalPath(store / "train")
    stats = {
        (view, block): (split / f"embeddings/c/{view}/{block}/0").stat()
        for view in range(VIEWS)
        for block in read_records(split, str(view))
    }
    return {key: (stat.st_ino, stat.st_mtime_ns) for key, stat in stats.items()}


def computed(store: Path) -> list[tuple[int, int]]:
    """(view, row) of every view that was rendered for the teacher, again and again if so."""
    with contextlib.suppress(FileNotFoundError):
        lines = store.with_name(f"{store.name}.pixel-hashes.jsonl").read_text().splitlines()
        return [(line["view"], line["row"]) for line in map(json.loads, lines)]
    return []


def files(store: Path) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kills", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_and_resumed_it_does_only_what_is_missing_and_leaves_the_same_bytes(
    images: Callable[..., Path], tmp_path: Path, kills: int
) -> None:
    data, generator = images(tmp_path / "data", train=IMAGES, val=2), np.random.default_rng(0)
    words = (
        "--teacher", "random/conv4-16", "--size", "16", "--resize", "20", "--views", str(VIEWS - 1), "--split", "train",
        "--block-rows", "1", "--policy", "moco-v2", "--threads", "1", "--pixel-hashes", "1000000",
    )  # fmt: skip
    whole, killed = tmp_path / "whole" / "store.zarr", tmp_path / "killed" / "store.zarr"
    whole.parent.mkdir()
    killed.parent.mkdir()

    assert run(data, whole, *words) == 0
    for moment in random_moments(generator, kills):
        before, log = committed(killed), computed(killed)
        assert run(data, killed, *words, "--resume", kill_at=moment) == -signal.SIGKILL
        after, new = committed(killed), computed(killed)[len(log) :]
        assert after | before == after
        assert not before.keys() & set(new)
        assert len(set(new) - after.keys()) <= BLOCKS_IN_FLIGHT * VIEWS
    assert run(data, killed, *words, "--resume") == 0

    assert open_store(killed)["train"].block_count == IMAGES
    assert len(set(computed(killed))) == IMAGES * VIEWS
    assert len(computed(killed)) <= IMAGES * VIEWS + kills * BLOCKS_IN_FLIGHT * VIEWS
    assert files(killed) == files(whole)
    assert verify_store(open_store(killed)).ok
    assert sorted(path.name for path in killed.parent.iterdir()) == [
        "index",
        "store.zarr",
        "store.zarr.pixel-hashes.jsonl",
    ]
