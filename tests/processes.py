"""Processes that begin at once: forks of one that has imported everything, which takes seconds."""

import contextlib
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.util
import os
import pty
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest.mock
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

NOBODY = 65534

PRELOADED = [
    "compress_ssl.cli.main", "compress_ssl.cli.progress", "compress_ssl.pipeline.embed.on_dask",
    *(f"compress_ssl.pipeline.{stage}.run" for stage in ("embed", "pretrain", "distill", "evaluate", "recipe")),
    "compress_ssl.pipeline.images.renderers.dali", "compress_ssl.pipeline.recipe.live_evaluation", "timm",
    "torch._dynamo", "distributed.cli.dask_scheduler", "distributed.cli.dask_worker", "distributed.dashboard.scheduler",
]  # fmt: skip

os.environ["DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD"] = "forkserver"  # of the workers that Dask starts


def preload(modules: Sequence[str]) -> None:
    """Set what the process imports that this process's are forks of, before the first of them."""
    from distributed.utils import get_mp_context  # whose first call sets modules of its own

    get_mp_context().set_forkserver_preload(modules)


class Forked:
    """A function running in a process group of its own; its exit code is that of ``sys.exit``, or minus its signal."""

    def __init__(
        self,
        function: Callable[..., object],
        *arguments: object,
        environment: dict[str, str] | None = None,
        terminal: str | None = None,
    ) -> None:
        """Start it in the current folder.

        Args:
            function: Function of a module, with arguments that can be pickled.
            *arguments: Its arguments.
            environment: Variables to add to this process's.
            terminal: Device that its outputs go to, instead of ``output`` and ``errors``.
        """
        self._outputs = [os.memfd_create(name) for name in ("output", "errors")]
        outputs = [terminal or f"/proc/{os.getpid()}/fd/{file}" for file in self._outputs]
        given = {**os.environ, **(environment or {})}
        process = multiprocessing.get_context("forkserver").Process
        self._process = process(target=_run, args=(Path.cwd(), given, outputs, function, arguments))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float = 100) -> int:
        """Return the exit code once it has ended; kill it if that takes longer."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill_group()
            raise AssertionError(f"it had not ended in {timeout} s: {self.errors}")
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it unless it has ended, as ``subprocess`` does."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill_group(self) -> None:
        """Kill it with all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.kill()  # it may not have its group yet
        self._process.join()

    @property
    def output(self) -> str:
        return Path(f"/proc/self/fd/{self._outputs[0]}").read_text()

    @property
    def errors(self) -> str:
        return Path(f"/proc/self/fd/{self._outputs[1]}").read_text()

    def __del__(self) -> None:
        if self.poll() is None:
            self.kill_group()
        for file in self._outputs:
            os.close(file)


def _run(
    folder: Path,
    environment: dict[str, str],
    outputs: Sequence[str],
    function: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ |= environment
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_RDWR), number)  # for reading too, so that a terminal controls the process
    if any(word in arguments for word in ("worker", "--workers")):
        _start_fork_server()
    function(*arguments)


def _start_fork_server() -> None:
    """Start the process that Dask's workers are forks of: a fork of this one, instead of a program."""

    def fork(_: object, command: Sequence[str], passed: Sequence[int]) -> int:
        pid = os.fork()
        if not pid:
            for file in {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2, *passed}:
                with contextlib.suppress(OSError):
                    os.close(file)
            try:
                exec(command[-1], {})  # noqa: S102 (the program, which follows -c)
            finally:
                os._exit(0)
        return pid

    preload([])
    with unittest.mock.patch.object(multiprocessing.util, "spawnv_passfds", fork):
        multiprocessing.forkserver.ensure_running()


def run_as_nobody(function: Callable[..., object], *arguments: object) -> None:
    """Call it without the rights of root, if this process has them; a StoreError is printed, and its exit code is 2."""
    from compress_ssl.storage.errors import StoreError

    if os.geteuid() == 0:
        os.setuid(NOBODY)
    try:
        function(*arguments)
    except StoreError as error:
        print(error)
        sys.exit(2)


def start_command(*words: object, **options: Any) -> Forked:
    """Start ``compress-ssl`` with these words; options as of ``Forked``."""
    return Forked(run_command, *map(str, words), **options)


def run_command(*words: str) -> None:
    from compress_ssl.cli.main import main

    sys.argv = ["compress-ssl", *words]
    main(prog_name="compress-ssl")


def run_in_little_memory(*words: str) -> None:
    """Run ``compress-ssl`` with 2 GB more than what is imported."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2_000_000_000, resource.RLIM_INFINITY))
    run_command(*words)


def run_command_until(kill_at: tuple[str, int, float] | None, *words: str) -> None:
    """Run ``compress-ssl`` until it is killed, if ``kill_at`` is (pattern, n, seconds).

    That is seconds after the n-th time that it is about to open or to rename a file such that "open PATH" or "os.rename
    NEW_PATH" matches the pattern.
    """
    if kill_at:
        pattern, count, seconds = kill_at
        seen = 0

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            if event in ("open", "os.rename"):
                seen += bool(re.search(pattern, f"{event} {arguments[event == 'os.rename']}"))
                if seen == count:
                    seen += 1
                    kill = (os.getpid(), signal.SIGKILL)
                    threading.Timer(seconds, os.kill, kill).start() if seconds else os.kill(*kill)

        sys.addaudithook(hook)
    run_command(*words)


def shown_on_terminal(*words: object, **environment: str) -> str:
    """Run ``compress-ssl`` with these words and both outputs on a terminal; what it writes there."""
    master, terminal = pty.openpty()
    process = start_command(*words, environment=environment, terminal=os.ttyname(terminal))
    shown = b""
    ended = False
    while not ended:
        ended = process.poll() is not None
        while select.select([master], [], [], 0.05)[0]:
            shown += os.read(master, 65536)
    os.close(terminal)
    os.close(master)
    assert process.wait() == 0, shown
    return shown.decode()


def start_ranks(*calls: tuple[object, ...]) -> list[Forked]:
    """Start a process for each (function, *arguments), as a job script does it by torch's environment variables."""
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    shared |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(len(calls)))
    return [
        Forked(*call, environment=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})  # type: ignore[arg-type]
        for rank, call in enumerate(calls)
    ]


def wait_until(
    condition: Callable[[], object],
    *processes: Forked | subprocess.Popen[Any],
    seconds: float = 100,
    every: float = 0.005,
) -> None:
    """Wait for a condition that comes true while the processes run."""
    deadline = time.monotonic() + seconds
    while not condition():
        for process in processes:
            code, errors = process.poll(), getattr(process, "errors", "")
            assert code is None, f"it ended before, with exit code {code}: {errors}"
        assert time.monotonic() < deadline, f"it has not come about in {seconds} s"
        time.sleep(every)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
