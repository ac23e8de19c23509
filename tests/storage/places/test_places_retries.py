"""Requests to a server that fails: sent again for a bounded time, never done twice in effect, ended by Ctrl-C."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from compress_ssl.cli.main import main
from compress_ssl.storage import RemotePath, StoreError, location, open_store
from compress_ssl.storage.errors import StoreRefusedError, StoreUnreachableError
from compress_ssl.storage.places.connection import PutRefusedError
from compress_ssl.storage.places.place import writer_lease
from compress_ssl.storage.places.retries import RETRY_SECONDS, retry_seconds
from compress_ssl.storage.tools.verify import verify_store
from tests.faulty_server import FaultyServer, answering, faulty_server, hanging, lost, truncated, without_length
from tests.servers import Server


@pytest.fixture
def faulty(
    s3: Server, bucket: str, monkeypatch: pytest.MonkeyPatch, again: Callable[[], None]
) -> Iterator[FaultyServer]:
    """A server in front of the S3 server, which the environment names; it is not yet started."""
    with faulty_server(s3.url) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv(RETRY_SECONDS, "60")
        again()
        yield server


@pytest.fixture
def place(bucket: str) -> RemotePath:
    found = location(f"{bucket}/some/x")
    assert isinstance(found, RemotePath)
    return found


@pytest.mark.parametrize("fault", [truncated, lost, answering(500), answering(503), answering(429)])
def test_every_kind_of_request_is_sent_again(faulty: FaultyServer, place: RemotePath, fault: Any) -> None:
    faulty.start()
    for request in ("PUT x", "GET x", "HEAD x", f"GET {place.root[5:]}", f"GET {place.root[5:]}"):
        faulty.fail(request, fault)
    place.write_bytes(b"content")
    assert place.read_bytes() == b"content"
    assert place.size() == 7
    assert list(place.parent.files()) == [place]
    assert list(place.parent.iterdir()) == [place]
    if fault is not truncated:  # the answer to a deletion says nothing
        faulty.fail(f"POST {place.root[5:]}", fault)
    place.unlink()
    assert not place.exists()
    assert not faulty.faults


@pytest.mark.parametrize("fault", [lost, answering(503)])
def test_conditional_put_whose_answer_was_lost_was_not_refused(
    faulty: FaultyServer, place: RemotePath, fault: Any
) -> None:
    faulty.start()
    faulty.fail("PUT x", fault, times=2)
    first = place.write_bytes(b"first", "create")
    assert first == place.stat().version
    second = place.write_bytes(b"second", first)
    assert (second, place.read_bytes()) == (place.stat().version, b"second")
    assert not faulty.faults


def test_conditional_put_that_another_was_quicker_with_is_refused(faulty: FaultyServer, place: RemotePath) -> None:
    faulty.start()
    place.write_bytes(b"another's")
    for mode in ("create", {"e_tag": '"0"'}):
        faulty.fail("PUT x", answering(503))
        with pytest.raises(PutRefusedError):
            place.write_bytes(b"ours", mode)  # type: ignore[arg-type]
    assert place.read_bytes() == b"another's"


def test_server_that_starts_late_is_waited_for_and_the_user_told_once(
    faulty: FaultyServer, place: RemotePath, caplog: pytest.LogCaptureFixture
) -> None:
    threading.Timer(5, faulty.start).start()  # the client's own retries end after 4 s
    threads = [threading.Thread(target=(place.parent / name).write_bytes, args=(b"",)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(place.parent.iterdir())) == 4
    (line,) = caplog.messages
    assert line.startswith(f"'{place.parent}/")
    assert f"no connection to {faulty.url[7:]}; check the URL and the network. Retrying for 60 seconds." in line


def test_retries_end(faulty: FaultyServer, place: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RETRY_SECONDS, "0.5")
    for request in (place.read_bytes, place.stat, place.unlink, place.is_dir, partial(place.write_bytes, b"")):
        with pytest.raises(StoreUnreachableError, match=rf"^'{place.root}\S*' cannot be used: no connection to 127"):
            request()


@pytest.mark.parametrize(("ignored", "warned"), [((), False), (("if-none-match",), True), (("if-match",), True)])
def test_server_that_ignores_conditions_is_a_warning(
    faulty: FaultyServer, place: RemotePath, caplog: pytest.LogCaptureFixture, ignored: tuple[str, ...], warned: bool
) -> None:
    """Three of the S3 servers on PyPI and npm do (docs/store-format.md)."""
    faulty.start()
    faulty.drops = ignored
    with writer_lease(place):
        pass
    assert (f"The server of '{place.parent}' ignores conditions of puts" in caplog.text) == warned


@pytest.mark.parametrize("status", [400, 403, 405, 501])
def test_refusal_is_not_asked_for_again(faulty: FaultyServer, place: RemotePath, status: int) -> None:
    faulty.start()
    faulty.fail("GET x", answering(status), times=2)
    with pytest.raises(StoreRefusedError, match=r"refuses|answers"):
        place.read_bytes()
    assert len(faulty.faults) == 1


def test_retries_end_after_three_minutes_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RETRY_SECONDS, raising=False)
    assert retry_seconds() == 180


@pytest.mark.parametrize("given", ["soon", "-1", "nan", "inf"])
def test_retry_seconds_that_are_no_number_are_a_sentence(
    faulty: FaultyServer, place: RemotePath, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv(RETRY_SECONDS, given)
    with pytest.raises(StoreError, match=f"^{RETRY_SECONDS} must be a number of seconds, got '{given}'"):
        place.read_bytes()


@pytest.mark.parametrize("waits_for", ["a connection", "an answer", "threads"])
def test_ctrl_c_ends_a_command_that_waits(faulty: FaultyServer, place: RemotePath, made: Path, waits_for: str) -> None:
    """It would else end after the retries, or after the five minutes that an answer may take."""
    if waits_for != "a connection":
        faulty.start()
        faulty.fail("GET zarr.json", hanging) if waits_for == "an answer" else faulty.fail("PUT 0", answering(503), 999)
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    result = CliRunner().invoke(main, ["store", "copy", str(made / "complete.zarr"), str(place)])
    assert (result.exit_code, time.monotonic() - started < 30) == (130, True), result.output


class _NoRanges(SimpleHTTPRequestHandler):
    """``python -m http.server``: knows no part of a file, and no ETag."""

    wbufsize = 2**20

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def files_server(tmp_path: Path, here: None) -> Iterator[FaultyServer]:
    """Python's own web server of the folder ``tmp_path``, with faults."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_NoRanges, directory=tmp_path))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    with faulty_server(f"http://127.0.0.1:{server.server_port}") as faulty:
        faulty.start()
        yield faulty
    server.shutdown()
    server.server_close()


def test_store_is_read_from_a_server_that_knows_no_ranges(
    complete: Path, files_server: FaultyServer, values: Callable[..., np.ndarray[Any, Any]]
) -> None:
    store = open_store(f"{files_server.url}/store.zarr")
    files_server.fail("GET ", truncated, times=2)
    np.testing.assert_array_equal(store["train"].view(1), values(1, slice(0, 22)))
    assert not files_server.faults
    assert verify_store(store).ok


def test_server_that_does_not_say_how_much_it_sends_is_a_sentence(complete: Path, files_server: FaultyServer) -> None:
    files_server.fail("GET zarr.json", without_length)
    with pytest.raises(StoreRefusedError, match=r"does not state the size of what it sends \(Content-Length\)"):
        open_store(f"{files_server.url}/store.zarr")
