"""Small datasets, and stage one run on them in this process."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from PIL import Image

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.networks.network import load_network, save_network
from compress_ssl.storage import EmbeddingStore
from tests.processes import Forked, free_port, wait_until

TINY = {
    "teacher": "random/conv4-16", "size": 16, "resize": 20, "views": 2, "batch_size": 5, "threads": 1, "block_rows": 9
}  # fmt: skip
"""Few blocks: each costs some files that are written durably."""


def write_images(root: Path, train: int = 36, val: int = 8) -> Path:
    """Images of blurred noise, 24 x 20 pixels, half of them JPEG, in two classes a split."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            folder = root / split / ("apple", "pear")[2 * number // count]
            folder.mkdir(parents=True, exist_ok=True)
            noise = Image.fromarray(generator.integers(0, 255, (5, 6, 3), dtype=np.uint8))
            noise.resize((24, 20)).save(folder / f"{number:03d}.{('png', 'jpg')[number % 2]}")
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """36 images in ``train``, 8 in ``val``."""
    return write_images(tmp_path / "data")


@pytest.fixture(scope="session")
def images() -> Callable[..., Path]:
    return write_images


@pytest.fixture(scope="session")
def embedded() -> Callable[..., EmbeddingStore]:
    """Run stage one, tiny unless the settings given say otherwise."""

    def run(data: Path, store: Path, **settings: Any) -> EmbeddingStore:
        given = {"split": ("train", "val:0"), **TINY, **settings}
        return embed(EmbedSettings(data=data, store=store, **given), Silent())

    return run


@pytest.fixture
def wanting(tmp_path: Path) -> Callable[[str], str]:
    """Write a tiny teacher that wants its images resized so; the reference of it."""

    def make(interpolation: str) -> str:
        network = load_network(TINY["teacher"])
        path = tmp_path / f"{interpolation}.safetensors"
        save_network(path, replace(network, preprocessing=replace(network.preprocessing, interpolation=interpolation)))
        return str(path)

    return make


@dataclass
class DaskProcesses:
    """A scheduler and workers in processes of their own, which meet by TCP; the workers note their blocks."""

    notes: Path
    address: str = field(default_factory=lambda: f"tcp://127.0.0.1:{free_port()}")
    environment: dict[str, str] = field(default_factory=dict)
    processes: list[tuple[str, Forked]] = field(default_factory=list)

    def start_scheduler(self) -> Forked:
        host, port = self.address.removeprefix("tcp://").split(":")
        return self._start("scheduler", "--host", host, "--port", port, "--no-dashboard")

    def start_worker(self, *options: str) -> Forked:
        """Start a worker, or with ``--nworkers`` several, under nannies."""
        return self._start(
            "worker", self.address, "--host", "127.0.0.1", "--nthreads", "2", "--memory-limit", "0", "--no-dashboard",
            "--preload", str(Path(__file__).with_name("noted_blocks.py")), *options,
        )  # fmt: skip

    def _start(self, *words: str) -> Forked:
        ttl = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "60 s"}  # until a worker that hangs is given up
        process = Forked(run_dask, *words, environment={"NOTES": str(self.notes), **ttl, **self.environment})
        self.processes.append((words[0], process))
        return process

    def wait(self, workers: int) -> None:
        """Wait until every scheduler that was started listens, and this many workers have registered."""
        deadline = time.monotonic() + 120
        schedulers = len([kind for kind, _ in self.processes if kind == "scheduler"])
        while (
            self._logged("scheduler", "Scheduler at") < schedulers or self._logged("worker", "Registered to") < workers
        ):
            assert time.monotonic() < deadline, [process.errors for _, process in self.processes]
            time.sleep(0.1)

    def _logged(self, kind: str, words: str) -> int:
        return sum(process.errors.count(words) for each, process in self.processes if each == kind)

    def blocks(self) -> list[tuple[int, str, int]]:
        """Process, split and number of each block begun, oldest first."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self.notes / "blocks").read_text().splitlines()
            return [(int(process), split, int(number)) for process, split, number in map(str.split, lines)]
        return []

    def next_block(self, seen: int) -> tuple[int, str, int]:
        """Wait for a block beyond those seen, and return it."""
        wait_until(lambda: len(self.blocks()) > seen, seconds=120, every=0.02)
        return self.blocks()[seen]

    def end(self) -> None:
        """Kill every process and what it has started."""
        for _, process in self.processes:
            process.kill_group()


def run_dask(*words: str) -> None:
    from dask.__main__ import main

    dask.config.refresh()  # from this process's environment
    sys.argv = ["dask", *words]
    main()


@pytest.fixture(scope="session")
def dask_processes() -> Callable[..., contextlib.AbstractContextManager[DaskProcesses]]:
    """Make a cluster of no process yet; all that are started end with the block."""

    @contextlib.contextmanager
    def make(notes: Path, **environment: str) -> Iterator[DaskProcesses]:
        notes.mkdir(parents=True)
        cluster = DaskProcesses(notes, environment=environment)
        try:
            yield cluster
        finally:
            cluster.end()

    return make
