"""What a run on a cluster outlives, and how it ends.

Schedulers and workers lost, stopped, far from the store; Ctrl-C.
"""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compress_ssl.pipeline.dask import cluster as opening
from compress_ssl.storage import EmbeddingStore, LocalPath, RemotePath, location, open_store
from compress_ssl.storage.commits import read_records
from compress_ssl.storage.tools.verify import verify_store
from tests.processes import Forked, start_command, wait_until

Embedded = Callable[..., EmbeddingStore]
SETTINGS = {"split": ("train",), "block_rows": 2}
WORDS = (
    "--teacher", "random/conv4-16", "--size", "16", "--resize", "20", "--views", "2", "--batch-size", "5",
    "--threads", "1",
    "--split", "train", "--block-rows", "2",
)  # fmt: skip


@contextlib.contextmanager
def embedding(*words: str | Path) -> Iterator[Forked]:
    """``compress-ssl embed``, as from a terminal."""
    process = start_command("embed", *words)
    try:
        yield process
    finally:
        process.kill_group()


def files(store: Path) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def committed(store: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of writing of each record that has a file of its own."""
    stats = {str(path): path.stat() for path in store.glob("train/embeddings/commits/*/*.json")}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}


def chunks(store: Path, views: int = 3) -> dict[str, tuple[int, int]]:
    """Inode and time of writing of the embeddings of every committed (view, block)."""
    split = LocalPath(store / "train")
    paths = [split / f"embeddings/c/{v}/{block}/0" for v in range(views) for block in read_records(split, str(v))]
    stats = {str(path): path.stat() for path in paths}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}


def test_a_lost_scheduler_ends_the_command_and_resume_goes_on_when_there_are_workers_again(
    data: Path,
    tmp_path: Path,
    embedded: Embedded,
    dask_processes: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = tmp_path / "store.zarr"
    with dask_processes(tmp_path / "notes") as cluster:
        scheduler = cluster.start_scheduler()
        cluster.start_worker("--no-nanny")
        cluster.wait(1)
        (cluster.notes / "seconds").write_text("0.3")
        with embedding(data, place, *WORDS, "--scheduler", cluster.address) as process:
            cluster.next_block(6)
            scheduler.send_signal(signal.SIGKILL)
            assert process.wait() == 1
            said = process.errors
        assert said.splitlines()[-1] == (
            f"Error: The scheduler at {cluster.address} is gone; start it, and the command again, embed with --resume."
        )
        assert "Traceback" not in said, said
        cluster.end()

        kept = chunks(place)
        assert kept
        (cluster.notes / "seconds").unlink()
        monkeypatch.setattr(opening, "NO_WORKER_SECONDS", 0.5)
        cluster.start_scheduler()
        cluster.wait(0)
        late = threading.Thread(
            target=lambda: (wait_until(lambda: "waiting for one" in caplog.text), cluster.start_worker("--no-nanny"))
        )
        late.start()
        embedded(data, place, **SETTINGS, resume=True, scheduler=cluster.address)
        late.join()
    assert f"No worker is connected to {cluster.address}; waiting for one." in caplog.text
    assert kept == {path: chunks(place)[path] for path in kept}
    assert files(place) == files(Path(str(embedded(data, tmp_path / "one.zarr", **SETTINGS).path)))


def living(group: int) -> list[str]:
    """The processes of a group that have not ended."""
    stats = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            stats.append(stat.read_text().rpartition(")")[2].split())
    return [state for state, _, process_group, *_ in stats if process_group == str(group) and state != "Z"]


@pytest.mark.parametrize(
    ("number", "workers", "to_all", "code"),
    [(signal.SIGINT, "2", True, 130), (signal.SIGTERM, "1", False, 75)],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_stopped_by_a_signal_it_keeps_the_finished_blocks_and_leaves_no_process(
    images: Callable[..., Path],
    tmp_path: Path,
    embedded: Embedded,
    number: signal.Signals,
    workers: str,
    to_all: bool,
    code: int,
) -> None:
    """A terminal sends Ctrl-C to all processes of the command."""
    data, place = images(tmp_path / "data", train=200), tmp_path / "store.zarr"
    with embedding(data, place, *WORDS, "--workers", workers) as process:
        wait_until(lambda: len(committed(place)) > 5)
        (os.killpg if to_all else os.kill)(process.pid, number)
        assert process.wait() == code
        said = process.errors
        wait_until(lambda: not living(process.pid), seconds=10)
    assert said.splitlines()[-1] == "Stopped. Run the same command with --resume to continue."
    assert "Traceback" not in said
    assert not place.with_name("store.zarr.lease").exists()
    kept = chunks(place)
    assert 5 < len(kept) < 100 * 3
    store = embedded(data, place, **SETTINGS, resume=True)
    assert kept == {path: chunks(place)[path] for path in kept}
    assert verify_store(store).ok


@pytest.mark.slow
def test_with_the_store_on_s3_a_stopped_worker_and_a_killed_one_do_no_harm(
    data: Path, tmp_path: Path, embedded: Embedded, bucket: str, dask_processes: Callable[..., Any]
) -> None:
    """One worker is stopped and wakes up after the run, the other is killed and starts again."""
    place = location(f"{bucket}/store.zarr")
    assert isinstance(place, RemotePath)
    with dask_processes(tmp_path / "notes", DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL="5 s") as cluster:
        cluster.start_scheduler()
        sleeper = cluster.start_worker("--no-nanny")
        cluster.start_worker()
        cluster.wait(2)
        (cluster.notes / "seconds").write_text("0.3")

        def stop_and_kill() -> None:
            wait_until(lambda: [process for process, *_ in cluster.blocks()].count(sleeper.pid) == 4)
            sleeper.send_signal(signal.SIGSTOP)
            process, *_ = cluster.next_block(len(cluster.blocks()) + 2)
            assert process != sleeper.pid
            os.kill(process, signal.SIGKILL)

        doing = threading.Thread(target=stop_and_kill)
        doing.start()
        embedded(data, place, **SETTINGS, scheduler=cluster.address)
        doing.join()
        assert len({process for process, *_ in cluster.blocks()}) == 3
        written = {path.key: path.stat().version for path in place.files()}
        sleeper.send_signal(signal.SIGCONT)
        time.sleep(3)
    # It may have slept between a block and its record: then it adds what others have recorded, and its writer.
    late = {path.key: path for path in place.files() if "/commits/" in path.key and path.key not in written}
    for path in late.values():
        manifest = json.loads((path.parent.parent / f"{path.parent.name}.json").read_bytes())
        added = {key: {**part, "writer": None} for key, part in json.loads(path.read_bytes()).items()}
        parts = manifest[path.name.removesuffix(".json")]
        assert added == {key: {**part, "writer": None} for key, part in parts.items()}
    assert written == {path.key: path.stat().version for path in place.files() if path.key not in late}
    assert verify_store(open_store(place)).ok
    one = files(Path(str(embedded(data, tmp_path / "one.zarr", **SETTINGS).path)))
    found = {path.relative_to(place).as_posix(): path.read_bytes() for path in place.files() if path.key not in late}
    assert found == one
