"""The lease on an object store: one writer, by conditional puts that the server decides about."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from compress_ssl.storage import RemotePath
from compress_ssl.storage.errors import StoreBusyError, StoreError
from compress_ssl.storage.places import lease
from compress_ssl.storage.places.place import writer_lease
from tests.processes import free_port, wait_until
from tests.servers import Server

ROOT = Path(__file__).parents[3]
HOLD = """
import sys
from compress_ssl.storage import location
from compress_ssl.storage.places.place import writer_lease
with writer_lease(location(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(remote: RemotePath) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the lease until its input ends."""
    command = [sys.executable, "-c", HOLD, str(remote)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def lease_object(remote: RemotePath) -> RemotePath:
    return remote.with_name("store.zarr.lease")


def heartbeat_of(remote: RemotePath) -> float:
    return float(json.loads(lease_object(remote).read_bytes())["heartbeat"])


def leave(remote: RemotePath, **changes: Any) -> None:
    """Write a lease as this process would hold it, but for some changes."""
    with writer_lease(remote):
        content: dict[str, Any] = json.loads(lease_object(remote).read_bytes()) | changes
    lease_object(remote).write_bytes(json.dumps(content).encode())


def test_second_writer_is_refused_and_told_who_holds_it(remote: RemotePath, holder: "subprocess.Popen[str]") -> None:
    with (
        pytest.raises(StoreBusyError, match=rf"'{remote}' is being written by process {holder.pid} on"),
        writer_lease(remote),
    ):
        pass
    holder.communicate("")
    assert not lease_object(remote).exists()


def test_lease_of_a_killed_process_is_taken_at_once(remote: RemotePath, holder: "subprocess.Popen[str]") -> None:
    holder.kill()
    holder.wait()
    with writer_lease(remote):
        assert json.loads(lease_object(remote).read_bytes())["process"] != holder.pid
    assert not lease_object(remote).exists()


@pytest.mark.parametrize("clock", [-1000, 1000])
def test_another_machine_holds_it_until_it_is_old_by_the_servers_clock(
    remote: RemotePath, clock: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(remote, machine="elsewhere boot pid", heartbeat=time.time() + clock)
    with pytest.raises(StoreBusyError, match="on elsewhere"), writer_lease(remote):
        pass
    monkeypatch.setattr(lease, "STALE_SECONDS", 0)
    with writer_lease(remote):
        assert b"elsewhere" not in lease_object(remote).read_bytes()


def test_object_of_the_users_own_is_no_lease_and_stays(remote: RemotePath) -> None:
    lease_object(remote).write_bytes(b"rent: 300")
    with pytest.raises(StoreError, match="has the name of a writer's lease and holds something else"):
        writer_lease(remote).__enter__()
    assert lease_object(remote).read_bytes() == b"rent: 300"


@pytest.mark.parametrize("content", [b"", b'{"machine": "a b'])
def test_lease_that_is_no_lease_holds_nobody_off(remote: RemotePath, content: bytes) -> None:
    lease_object(remote).write_bytes(content)
    with writer_lease(remote):
        assert json.loads(lease_object(remote).read_bytes())["process"]


def test_heart_beats_while_the_lease_is_held(remote: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.05)
    with writer_lease(remote):
        first = heartbeat_of(remote)
        wait_until(lambda: heartbeat_of(remote) != first, seconds=20, every=0.05)


def test_lease_that_another_has_taken_is_left_to_it(remote: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.05)
    other = json.dumps({"machine": "elsewhere b p", "process": 1, "started": "1", "heartbeat": time.time()}).encode()
    with writer_lease(remote):
        lease_object(remote).write_bytes(other)
        time.sleep(0.3)
    assert lease_object(remote).read_bytes() == other


def test_network_that_fails_meanwhile_does_not_end_the_heartbeat(
    remote: RemotePath, s3: Server, monkeypatch: pytest.MonkeyPatch, again: Callable[[], None]
) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setenv("COMPRESS_SSL_RETRY_SECONDS", "0")
    with writer_lease(remote):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        again()
        time.sleep(0.3)
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
        again()
        before = heartbeat_of(remote)
        wait_until(lambda: heartbeat_of(remote) != before, seconds=20, every=0.05)


def test_of_many_at_once_exactly_one_gets_it(remote: RemotePath) -> None:
    count = 8
    start, tried = threading.Barrier(count), threading.Barrier(count)

    def attempt(_: int) -> bool:
        start.wait(60)
        try:
            with writer_lease(remote):
                tried.wait(60)
                return True
        except StoreBusyError:
            tried.wait(60)
            return False

    with ThreadPoolExecutor(count) as pool:
        assert sum(pool.map(attempt, range(count))) == 1
    assert not lease_object(remote).exists()
