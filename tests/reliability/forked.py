"""The command line in processes forked from this one, which has imported everything: real ones that start at once.

Nothing here may be read through zarr, whose threads no fork has: what has to be is asked of a forked process.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import nvidia.dali  # noqa: F401
import torch
import zarr  # noqa: F401

import compress_ssl.cli.progress
import compress_ssl.pipeline.distill.run
import compress_ssl.pipeline.embed.run
import compress_ssl.pipeline.images.renderers.dali  # noqa: F401
from compress_ssl.cli.main import main
from compress_ssl.storage import open_store
from tests.reliability.truth import Truth, truth_of

Answer = TypeVar("Answer")
WORDS = (
    "--teacher", "random/conv4-16", "--size", "16", "--resize", "20", "--views", "2", "--split", "train",
    "--block-rows", "2",
    "--batch-size", "8", "--policy", "moco-v2", "--threads", "1",
)  # fmt: skip

torch.set_num_threads(1)


def start_embed(data: Path, store: Path, *words: str) -> int:
    """Begin ``compress-ssl embed``; its process. What it says goes to ``said_by``."""
    return start(("embed", str(data), str(store), *WORDS, *words), said_by(data))


def start(words: Sequence[str], said_to: Path) -> int:
    """Begin a command; its process."""
    process = os.fork()
    if process == 0:
        code: Any = 1
        try:
            said = os.open(said_to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(said, 1)
            os.dup2(said, 2)
            main(list(words), prog_name="compress-ssl")
        except SystemExit as ending:
            code = ending.code
        finally:
            os._exit(code or 0)
    return process


def said_by(data: Path) -> Path:
    """Where the last words of a run with these images are."""
    return data.with_suffix(".said")


def ended(process: int) -> int:
    """The exit code of a process, when it has ended: below 0 it is a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed(process: int, seconds: float) -> bool:
    """Kill a process after so many seconds; whether it had not ended by then."""
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    return ended(process) == -signal.SIGKILL


def asked(function: Callable[..., Answer], *arguments: Any) -> Answer:
    """Call a function in a forked process."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(function, arguments)


def truth_at(store: Path) -> Truth:
    return truth_of(open_store(store))


def one_run(data: Path, store: Path) -> float:
    """Make a store undisturbed; the seconds of it."""
    begun = time.perf_counter()
    code = ended(start_embed(data, store))
    if code:
        sys.exit(f"embed ended with {code}: {said_by(data).read_text()}")
    return time.perf_counter() - begun


def forget(store: Path) -> None:
    """Delete a store and what lies beside it, but not the index of the images."""
    for path in store.parent.glob(f"{store.name}*"):
        with contextlib.suppress(NotADirectoryError):
            shutil.rmtree(path)
            continue
        path.unlink()
