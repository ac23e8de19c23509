"""SIGKILL of Dask workers while they write a store, and of the scheduler: what is read of it after each kill.

python -m tests.reliability.killed_dask --workers 20 --schedulers 5 [--seed 0]

Two workers meet a scheduler by TCP. A worker that has begun a block is killed up to a second later, each time once
something more has been committed: embed gives up a block at which eight workers died. Its nanny starts it again, and
the run goes on. Without its scheduler a run ends with a sentence, and is gone on with under a new one.
After every kill all rows are read and compared with those of a store that one process made, and no record may be
gone.
"""

import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.storage import EmbeddingStore
from tests.pipeline.embed.conftest import DaskProcesses, write_images
from tests.processes import start_command
from tests.reliability.options import parser
from tests.reliability.truth import Answers, Truth, committed, damage_found, files, read_everything, truth_of

IMAGES, SECONDS_A_BLOCK = 240, 0.4
TINY = {"teacher": "random/conv4-16", "size": 16, "resize": 20, "views": 2, "batch_size": 8, "threads": 1}
SETTINGS = {**TINY, "split": ("train",), "block_rows": 1}
WORDS = (
    "--teacher", "random/conv4-16", "--size", "16", "--resize", "20", "--views", "2", "--batch-size", "8",
    "--threads", "1",
    "--split", "train", "--block-rows", "1", "--resume",
)  # fmt: skip


class Watch:
    """Looks at a store after each kill, and counts."""

    def __init__(self, truth: Truth) -> None:
        self.truth, self.answers, self.counts = truth, Answers(), Counter[str]()
        self._before: set[tuple[int, int]] = set()

    def look(self, store: Path, event: str) -> None:
        now = committed(store)
        self.answers.add(read_everything(store, self.truth))
        self.counts[event] += 1
        self.counts["records lost"] += len(self._before - now)
        self._before = now
        print(f"{event}: {len(now)} views of blocks are committed", flush=True)

    def finished(self, store: Path, whole: Path) -> None:
        self._before = set()
        self.counts["stores finished"] += 1
        self.counts["stores with other bytes"] += files(store) != files(whole)
        self.counts["stores with damage"] += bool(damage_found(store))


def kill_workers(folder: Path, data: Path, whole: Path, watch: Watch, count: int, draw: random.Random) -> None:
    """Kill workers over as many stores as it takes."""
    with started(folder / "workers") as cluster:
        kills, number = 0, 0
        while kills < count:
            store = folder / f"workers-{number}.zarr"
            number += 1
            process = start_command("embed", data, store, *WORDS, "--scheduler", cluster.address)
            while process.poll() is None and kills < count:
                seen, done = len(cluster.blocks()), len(committed(store))
                while (len(cluster.blocks()) <= seen or len(committed(store)) <= done) and process.poll() is None:
                    time.sleep(0.02)
                time.sleep(draw.uniform(0, 1))
                if process.poll() is None:
                    os.kill(cluster.blocks()[-1][0], signal.SIGKILL)
                    kills += 1
                    watch.look(store, "workers killed")
            if code := process.wait(600):
                sys.exit(f"embed ended with {code}: {process.errors}")
            watch.finished(store, whole)


def kill_schedulers(folder: Path, data: Path, whole: Path, watch: Watch, count: int, draw: random.Random) -> None:
    """Kill one scheduler after the other of one store; in the end one process finishes it."""
    store = folder / "schedulers.zarr"
    for number in range(count):
        with started(folder / f"scheduler-{number}") as cluster:
            process = start_command("embed", data, store, *WORDS, "--scheduler", cluster.address)
            while len(cluster.blocks()) < 3 and process.poll() is None:
                time.sleep(0.02)
            time.sleep(draw.uniform(0, 4))
            cluster.processes[0][1].send_signal(signal.SIGKILL)
            process.wait()
            said = process.errors.splitlines()[-1]
            watch.counts["runs that ended with a sentence"] += said.startswith("Error: The scheduler at")
            watch.look(store, "schedulers killed")
    one_process(data, store)
    watch.finished(store, whole)


@contextlib.contextmanager
def started(notes: Path) -> Iterator[DaskProcesses]:
    """A scheduler and two workers, which take their time over each block."""
    notes.mkdir()
    (notes / "seconds").write_text(str(SECONDS_A_BLOCK))
    cluster = DaskProcesses(notes)
    try:
        cluster.start_scheduler()
        for _ in range(2):
            cluster.start_worker()
        yield cluster
    finally:
        cluster.end()


def one_process(data: Path, store: Path) -> EmbeddingStore:
    return embed(EmbedSettings(data=data, store=store, resume=True, **SETTINGS), Silent())


def main(workers: int, schedulers: int, seed: int) -> None:
    """Print how the kills went."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, whole = write_images(folder / "data", train=IMAGES, val=2), folder / "whole.zarr"
        watch = Watch(truth_of(one_process(data, whole)))
        kill_schedulers(folder, data, whole, watch, schedulers, draw)
        kill_workers(folder, data, whole, watch, workers, draw)
    answers = watch.answers
    print(
        dict(watch.counts), f"rows read right {answers.right:,}, wrong {answers.wrong}, errors {dict(answers.refused)}"
    )


if __name__ == "__main__":
    main(**vars(parser(__doc__, workers=20, schedulers=5).parse_args()))
