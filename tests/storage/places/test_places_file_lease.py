"""One writer a store: a second is refused, one that is gone is noticed."""

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from compress_ssl.storage.errors import StoreBusyError, StoreError
from compress_ssl.storage.places import lease
from compress_ssl.storage.places.lease import STALE_SECONDS
from compress_ssl.storage.places.lease_file import LeaseFile
from compress_ssl.storage.places.place import writer_lease
from tests.processes import wait_until

ROOT = Path(__file__).parents[3]
HOLD = """
import sys
from pathlib import Path
from compress_ssl.storage.places.place import writer_lease
with writer_lease(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store.zarr"


@pytest.fixture
def holder(store: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the lease until its input ends."""
    command = [sys.executable, "-c", HOLD, str(store)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def lease_file(store: Path) -> Path:
    return store.with_name("store.zarr.lease")


def leave(store: Path, age: float = 0, **changes: Any) -> None:
    """Write a lease as this process would hold it, but for some changes; so many seconds ago by the disk's clock."""
    with writer_lease(store):
        content: dict[str, Any] = json.loads(lease_file(store).read_text()) | changes
    lease_file(store).write_text(json.dumps(content))
    os.utime(lease_file(store), times=2 * (time.time() - age,))


def test_second_writer_is_refused_and_told_who_holds_it(store: Path, holder: "subprocess.Popen[str]") -> None:
    sentence = rf"'.*store\.zarr' is being written by process {holder.pid} on \S+ \(last heartbeat \d+ s ago\)"
    with pytest.raises(StoreBusyError, match=sentence), writer_lease(store):
        pass


def test_lease_of_a_killed_process_is_taken_at_once(store: Path, holder: "subprocess.Popen[str]") -> None:
    holder.kill()
    holder.wait()
    began = time.monotonic()
    with writer_lease(store):
        assert time.monotonic() - began < 5


def test_lease_is_free_once_its_holder_has_ended(store: Path, holder: "subprocess.Popen[str]") -> None:
    holder.communicate("")
    assert not lease_file(store).exists()


def test_lease_is_held_against_the_same_process_too(store: Path) -> None:
    with writer_lease(store), pytest.raises(StoreBusyError), writer_lease(store):
        pass


def test_lease_follows_a_link_to_the_store(store: Path) -> None:
    store.mkdir()
    link = store.with_name("link.zarr")
    link.symlink_to(store)
    with writer_lease(link), pytest.raises(StoreBusyError), writer_lease(store):
        pass


def test_lease_works_for_the_current_folder(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.mkdir()
    monkeypatch.chdir(store)
    with writer_lease(Path()), pytest.raises(StoreBusyError), writer_lease(store):
        pass


def test_lease_ends_with_an_error_too(store: Path) -> None:
    with pytest.raises(ZeroDivisionError), writer_lease(store):
        _ = 1 / 0
    assert list(store.parent.iterdir()) == []


@pytest.mark.parametrize("clock", [-10 * STALE_SECONDS, 0, 10 * STALE_SECONDS])
@pytest.mark.parametrize(("age", "held"), [(STALE_SECONDS - 20, True), (STALE_SECONDS + 1, False), (-1e6, False)])
def test_another_machine_holds_it_while_it_is_renewed_whatever_its_clock_says(
    store: Path, clock: float, age: float, held: bool
) -> None:
    leave(store, age, machine="elsewhere boot pid", heartbeat=time.time() + clock)
    if held:
        with pytest.raises(StoreBusyError, match="on elsewhere"), writer_lease(store):
            pass
    else:
        with writer_lease(store):
            assert "elsewhere" not in lease_file(store).read_text()
    assert [path.name for path in store.parent.iterdir()] == [lease_file(store).name] * held


def test_living_process_of_this_machine_holds_it_however_old_its_heartbeat(
    store: Path, holder: "subprocess.Popen[str]"
) -> None:
    content = json.loads(lease_file(store).read_text())
    lease_file(store).write_text(json.dumps(content | {"heartbeat": time.time() - 100 * STALE_SECONDS}))
    with pytest.raises(StoreBusyError), writer_lease(store):
        pass


def test_another_process_of_the_same_number_does_not_hold_it(store: Path) -> None:
    leave(store, started="1")
    with writer_lease(store):
        pass


def test_machine_of_the_same_name_is_another_machine(store: Path) -> None:
    with writer_lease(store):
        name, boot, namespace = json.loads(lease_file(store).read_text())["machine"].split()
    assert boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    leave(store, machine=f"{name} another-boot {namespace}", process=2**22 + 1)
    with pytest.raises(StoreBusyError), writer_lease(store):
        pass


@pytest.mark.parametrize("content", ["", '{"machine": "a b', '{"machine": 3, "process": "../1"}'])
def test_lease_file_cut_short_holds_nobody_off(store: Path, content: str) -> None:
    lease_file(store).write_text(content)
    with writer_lease(store):
        assert json.loads(lease_file(store).read_text())["process"]


@pytest.mark.parametrize("content", ["rent: 300", "[]", "{}", "null", "\0"])
def test_file_of_the_users_own_is_no_lease_and_stays(store: Path, content: str) -> None:
    lease_file(store).write_text(content)
    with pytest.raises(StoreError, match=r"store\.zarr\.lease' has the name of a writer's lease and holds something"):
        writer_lease(store).__enter__()
    assert lease_file(store).read_text() == content


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder", "fifo"])
def test_what_is_no_file_is_no_lease_and_is_not_followed(store: Path, kind: str) -> None:
    elsewhere = store.with_name("elsewhere")
    match kind:
        case "folder":
            lease_file(store).mkdir()
        case "fifo":
            os.mkfifo(lease_file(store))
        case _:
            lease_file(store).symlink_to(elsewhere)
    if kind == "link":
        elsewhere.write_text("")
    with pytest.raises(StoreError, match=r"has the name of a writer's lease and is no file"):
        writer_lease(store).__enter__()
    assert elsewhere.exists() == (kind == "link")


def test_heart_beats_while_the_lease_is_held(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.01)
    with writer_lease(store):
        first = json.loads(lease_file(store).read_text())["heartbeat"]

        def has_beaten() -> bool:
            content = lease_file(store).read_text()
            return bool(content) and json.loads(content)["heartbeat"] > first

        wait_until(has_beaten, seconds=10, every=0.02)


def test_lease_that_another_has_taken_is_left_to_it(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.01)
    other = {"machine": "elsewhere b p", "process": 1, "started": "1", "heartbeat": time.time()}
    with writer_lease(store):
        lease_file(store).write_text(json.dumps(other))
        time.sleep(0.05)
    assert json.loads(lease_file(store).read_text()) == other


def test_lease_file_is_waited_for_and_taken_anew_where_it_was_removed_meanwhile(store: Path) -> None:
    descriptor = os.open(lease_file(store), os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    entered, leave_it = threading.Event(), threading.Event()

    def take() -> None:
        with writer_lease(store):
            entered.set()
            leave_it.wait(20)

    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(take)
        assert not entered.wait(0.3)
        lease_file(store).unlink()
        os.close(descriptor)
        assert entered.wait(20)
        assert json.loads(lease_file(store).read_text())["process"] == os.getpid()
        leave_it.set()
        taking.result()


def test_of_many_at_once_exactly_one_gets_it(store: Path) -> None:
    count = 16
    start, tried = threading.Barrier(count), threading.Barrier(count)

    def attempt(_: int) -> bool:
        start.wait(20)
        try:
            with writer_lease(store):
                tried.wait(20)
                return True
        except StoreBusyError:
            tried.wait(20)
            return False

    for _ in range(5):
        with ThreadPoolExecutor(count) as pool:
            assert sum(pool.map(attempt, range(count))) == 1
        assert not lease_file(store).exists()


def test_writer_notices_that_its_lease_was_taken(store: Path) -> None:
    with writer_lease(store) as lease:
        lease.check()
        leave_a_lease_of_another(store)
        with pytest.raises(StoreBusyError, match=r"'.*store\.zarr' was taken over by another writer"):
            lease.check()
        lease_file(store).unlink()  # the other has ended
        with pytest.raises(StoreBusyError, match="was taken over"):
            lease.check()


def test_nobody_takes_a_lease_while_something_is_written_under_it(store: Path) -> None:
    with ThreadPoolExecutor(1) as pool, writer_lease(store) as lease:
        with lease.held():
            taking = pool.submit(leave_a_lease_of_another, store)
            time.sleep(0.2)
            assert not taking.done()
        taking.result()


def test_threads_that_write_all_the_time_leave_the_heartbeat_its_turn(store: Path) -> None:
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            with lease.held():
                pass

    with ThreadPoolExecutor(17) as pool, writer_lease(store) as lease:
        for _ in range(16):
            pool.submit(write)
        try:
            content, version = lease.slot.read()
            assert pool.submit(lease.slot.put, content, version).result(10) == content
        finally:
            ended.set()


def leave_a_lease_of_another(store: Path) -> None:
    """Take the lease as another writer does that counts this one as gone."""
    other = json.dumps({"machine": "elsewhere b p", "process": 1, "started": "1", "heartbeat": time.time()}).encode()
    slot = LeaseFile(lease_file(store))
    assert slot.put(other, slot.read()[1])
