"""A program: write a store in processes that are killed at random, every other after a commit, until it is done.

Prints JSON: how many were killed, how many of them while writing, how often a committed part was written again.
Its processes are forked before zarr starts its threads, so that none of them waits for an import.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from compress_ssl.storage import LocalPath
from compress_ssl.storage.commits import read_records
from compress_ssl.storage.writer import StoreWriter, exclusive_writer

ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT


def write_missing(path: Path) -> None:
    with exclusive_writer(path):
        writer = StoreWriter(path)
        for block, views in writer.pending_blocks("train").items():
            rows = writer.store["train"].block_slice(block)
            numbers = np.arange(rows.start, rows.stop)
            for view in views:
                embeddings = np.repeat(numbers[:, None] + view / 4, 4, axis=1)
                augmentation = np.stack([numbers, numbers * view], 1).astype(np.float32)
                writer.write_block("train", block, view, embeddings, augmentation)
                if (patches := writer.store["train"].patches) and view in patches.views:
                    codes = np.repeat(numbers[:, None] + view, 12, axis=1).astype(np.int8).reshape(-1, 4, 3)
                    writer.write_patches("train", block, view, codes, np.ones(codes.shape[:2], np.float16))
        writer.finish()


def committed_parts(path: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every part that a record names."""
    found = {}
    for unit in ("0", "1", "2", "patches-0", "patches-2"):
        for record in read_records(LocalPath(path / "train"), unit).values():
            for key in record:
                stat = (path / "train" / key).stat()
                found[key] = (stat.st_ino, stat.st_mtime_ns)
    return found


def run(path: Path, seed: int) -> dict[str, int]:
    generator = random.Random(seed)
    killed = rewritten = progressed = 0
    before: dict[str, tuple[int, int]] = {}
    while True:
        child = os.fork()
        if not child:
            write_missing(path)
            os._exit(0)
        if killed % 2:  # so that some work is done on any machine
            while len(committed_parts(path)) == len(before) and os.waitid(os.P_PID, child, ENDED) is None:
                time.sleep(0.005)
        time.sleep(generator.uniform(0, 0.01 * (1 + killed)))  # longer and longer: it has an end
        os.kill(child, signal.SIGKILL)
        if os.WIFEXITED(os.waitpid(child, 0)[1]):
            return {"killed": killed, "progressed": progressed, "rewritten": rewritten}
        killed += 1
        now = committed_parts(path)
        progressed += len(now) > len(before)
        rewritten += sum(now.get(key, part) != part for key, part in before.items())
        before = now


if __name__ == "__main__":
    if sys.argv[2] == "whole":
        write_missing(Path(sys.argv[1]))
    else:
        print(json.dumps(run(Path(sys.argv[1]), int(sys.argv[2]))))
