"""Exit codes: the documentation has the program's table, and each cause, provoked with real parts, has its code."""

import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from click.testing import Result

from compress_ssl.cli.errors import ENDINGS, OTHER_ENDINGS
from compress_ssl.pipeline.export import run as export
from tests.cli.conftest import OnProgress
from tests.disks import mount, small_disk

Call = Callable[..., Result]
ROOT = Path(__file__).parents[2]
SIZE = ("--size", "16", "--resize", "16")
PRETRAIN = ("--arch", "conv4-16", "--epochs", "1", "--batch-size", "8", *SIZE)


@pytest.fixture
def disk(workplace: Path) -> Iterator[Path]:
    """An 8 MiB file system mounted at ``disk`` in the current folder."""
    with small_disk(Path("disk"), "8m") as folder:
        yield folder


def fill(folder: Path, leave: int = 0) -> None:
    """Take all space of a file system but so many bytes."""
    state = os.statvfs(folder)
    with (folder / "others").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, state.f_bavail * state.f_frsize - leave)


def writing_commands(embed_options: tuple[str, ...], distill_options: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Every command that writes, with its output on ``disk``."""
    return [
        ("embed", "data", "disk/new.zarr", *embed_options),
        ("distill", "teacher.zarr", "data", "disk/new", *distill_options),
        ("pretrain", "data", "disk/big", *PRETRAIN),
        ("pack", "data", "disk/new.h5"),
        ("store", "export", "teacher.zarr", "--to", "disk/store.h5"),
        ("store", "import", "teacher.h5", "disk/imported.zarr"),
        ("store", "copy", "teacher.zarr", "disk/copy.zarr"),
        ("store", "merge", "teacher.zarr", "disk/merged.zarr"),
        ("store", "card", "teacher.zarr", "--output", "disk/README.md"),
        ("export", "student", "disk/exported", "--no-onnx"),
        ("evaluate", "teacher.zarr", "--output", "disk/scores"),
        ("evaluate", "student", "--data", "data", "--output", "disk/scores", *SIZE),
        ("quickstart", "--folder", "disk/quickstart"),
    ]


def assert_ends(result: Result, exit_code: int, sentence: str) -> None:
    assert result.exit_code == exit_code, result.output
    last = result.stderr.splitlines()[-1]
    assert re.search(sentence, last), last
    assert "Traceback" not in result.output


def test_documentation_has_the_table_of_the_program() -> None:
    text = (ROOT / "docs" / "exit-codes.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", text, re.MULTILINE)
    program = [*((ending.exit_code, ending.cause) for ending in ENDINGS), *OTHER_ENDINGS]
    assert sorted((int(code), cause) for code, cause in rows) == sorted(program)
    assert {int(code) for code, _ in rows} == {0, 1, 2, 75, 130}


def test_full_disk_is_a_failed_run_in_every_command(
    call: Call, disk: Path, embed_options: tuple[str, ...], distill_options: tuple[str, ...]
) -> None:
    assert call("store", "export", "teacher.zarr", "--to", "teacher.h5").exit_code == 0
    fill(disk)
    for words in writing_commands(embed_options, distill_options):
        assert_ends(call(*words), 1, r"^Error: .*(disk is full|has 0\.0+ [GM]iB left).*free some space")


@pytest.mark.parametrize(
    ("words", "left"),
    [(("pack", "data", "disk/new.h5"), 45_056), (("store", "export", "teacher.zarr", "--to", "disk/new.h5"), 16_384)],
)
def test_disk_that_fills_up_while_hdf5_writes_is_a_failed_run(
    call: Call, disk: Path, words: tuple[str, ...], left: int
) -> None:
    """The check before it finds enough space: the content fits, HDF5's own structure does not."""
    fill(disk, leave=left)
    assert_ends(call(*words), 1, r"disk/new\.h5.*(\.partial'\)|' needs 0\.\d MiB, .* left); free some space")
    assert [path.name for path in disk.iterdir() if path.name != "index"] == ["others"]


def test_read_only_file_system_is_a_failed_run_in_every_command(
    call: Call, disk: Path, embed_options: tuple[str, ...], distill_options: tuple[str, ...]
) -> None:
    assert call("store", "export", "teacher.zarr", "--to", "teacher.h5").exit_code == 0
    shutil.copytree("student", disk / "student")
    shutil.copytree("teacher.zarr", disk / "teacher.zarr")
    mount(disk, "-o", "remount,ro")
    resumed = [
        ("embed", "data", "disk/teacher.zarr", *embed_options, "--resume"),
        ("distill", "teacher.zarr", "data", "disk/student", *distill_options, "--resume"),
        ("evaluate", "disk/student", "--data", "data", *SIZE),
        ("evaluate", "disk/teacher.zarr"),
    ]
    for words in (*writing_commands(embed_options, distill_options), *resumed):
        assert_ends(call(*words), 1, r"^Error: The file system is read-only \(writing '.*disk/.*'\); remount it")


@pytest.mark.parametrize("stage", ["embed", "distill", "pretrain"])
def test_file_system_that_becomes_read_only_during_a_run_is_named(
    call: Call,
    disk: Path,
    on_progress: OnProgress,
    embed_options: tuple[str, ...],
    distill_options: tuple[str, ...],
    stage: str,
) -> None:
    words = next(words for words in writing_commands(embed_options, distill_options) if words[0] == stage)
    with on_progress(lambda title: title.startswith(stage) and mount(disk, "-o", "remount,ro")):
        assert_ends(call(*words), 1, r"^Error: The file system is read-only \(writing '.*disk/.*'\); remount it")


def test_file_size_limit_is_a_failed_run(
    call: Call, workplace: Path, embed_options: tuple[str, ...], distill_options: tuple[str, ...]
) -> None:
    """``write`` fails, with an error that names no file."""
    (workplace / "disk").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for words in writing_commands(embed_options, distill_options):
        if words[0] in {"distill", "pretrain", "export"}:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
            try:
                result = call(*words)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            assert_ends(result, 1, r"^Error: '.*(checkpoint\.pt|model\.safetensors)': file too large; check the disk")


def test_disk_that_cannot_be_read_is_a_failed_run(
    call: Call, workplace: Path, distill_options: tuple[str, ...]
) -> None:
    for file in ("checkpoint.pt", "model.safetensors"):
        (workplace / "student" / file).unlink()
        (workplace / "student" / file).symlink_to("/proc/self/mem")  # its first bytes are EIO
    again = ("distill", "teacher.zarr", "data", "student", *distill_options, "--resume")
    for words in (again, ("export", "student", "exported", "--no-onnx")):
        assert_ends(call(*words), 1, r"^Error: .*: input/output error; check the disk")


def test_python_without_assertions_is_refused(workplace: Path) -> None:
    command = "from compress_ssl.cli.main import main; main(prog_name='compress-ssl')"
    python = [sys.executable, "-O", "-c", command]
    ended = subprocess.run([*python, "store", "info", "x"], stderr=subprocess.PIPE, check=False, text=True)
    assert ended.returncode == 2
    assert "start it without python -O" in ended.stderr


def test_server_that_cannot_be_reached_is_a_failed_run(
    call: Call, workplace: Path, monkeypatch: pytest.MonkeyPatch, distill_options: tuple[str, ...]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("COMPRESS_SSL_RETRY_SECONDS", "0.1")
    store = f"http://127.0.0.1:{port}/x.zarr"
    for words in (
        ("store", "info", store),
        ("store", "copy", store, "copy.zarr"),
        ("distill", store, "data", "new", *distill_options),
        ("evaluate", store, "--output", "scores"),
    ):
        assert_ends(
            call(*words), 1, rf"cannot be used: no connection to 127\.0\.0\.1:{port}; check the URL and the network"
        )


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGHUP, 75)]
)
def test_signal_ends_every_command_with_its_code_and_says_how_to_continue(
    call: Call,
    workplace: Path,
    on_progress: OnProgress,
    embed_options: tuple[str, ...],
    distill_options: tuple[str, ...],
    number: signal.Signals,
    exit_code: int,
) -> None:
    """The signal comes when the command reports its first progress."""
    (workplace / "disk").mkdir()
    assert call("store", "export", "teacher.zarr", "--to", "teacher.h5").exit_code == 0
    for words in writing_commands(embed_options, distill_options):
        if words[0] in {"export", "quickstart"} or words[:2] in {("store", "card"), ("evaluate", "teacher.zarr")}:
            continue  # these report no progress
        with on_progress(lambda title: signal.raise_signal(number)):
            result = call(*words)
        assert result.exit_code == exit_code, (words, result.output)
        again = r"with --resume to continue" if words[0] in {"embed", "distill", "pretrain"} else "again"
        assert re.search(
            rf"^(Stopped\.|.*: stopped by .*) Run the same command {again}\.$", result.stderr, re.MULTILINE
        )
        assert "Traceback" not in result.output


class Destroyed:
    """An object that a signal meets while it is destroyed: Python ignores what the signal's handler raises."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)


def waits_on_a_condition(number: signal.Signals) -> None:
    """Leaving ``Condition.wait`` fails, where the signal comes before the lock is held again."""
    lock = threading.Lock()
    with lock:
        lock.release()
        signal.raise_signal(number)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
@pytest.mark.parametrize("comes", [Destroyed, waits_on_a_condition], ids=["destructor", "lock"])
def test_signal_in_an_awkward_moment_is_not_lost(
    call: Call,
    workplace: Path,
    on_progress: OnProgress,
    comes: Callable[[signal.Signals], object],
    number: signal.Signals,
    exit_code: int,
) -> None:
    def act(title: str) -> None:
        comes(number)
        time.sleep(1)

    with on_progress(act):
        result = call("store", "copy", "teacher.zarr", "copy.zarr")
    assert_ends(result, exit_code, r"^Stopped\. Run the same command again\.$")
    assert not Path("copy.zarr").exists()


def test_full_memory_without_a_sentence_of_the_stage_is_1(
    call: Call, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "model_card", lambda *_: torch.empty(2**50))
    assert_ends(
        call("export", "student", "exported", "--no-onnx"), 1, "^Error: The memory is full; .* end other programs"
    )


def test_wrong_use_is_2(call: Call, workplace: Path) -> None:
    for words in (
        ("nothing",),
        ("embed", "data"),
        ("store", "info", "nowhere"),
        ("run", "nothing"),
        ("evaluate", "student", "--data", "nowhere"),
        ("store", "export", "teacher.zarr", "--to", "data"),
    ):
        assert call(*words).exit_code == 2, words
