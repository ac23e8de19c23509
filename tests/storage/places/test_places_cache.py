"""The local cache of remote chunks: nothing is fetched twice, nothing wrong is ever given, the bound holds."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import xxhash

from compress_ssl.storage import StoreError, location, open_store
from compress_ssl.storage.errors import StoreDamagedError, StoreUnreachableError
from compress_ssl.storage.places.cache import ChunkCache
from compress_ssl.storage.places.remote import RemotePath
from compress_ssl.storage.schema import Part
from compress_ssl.storage.tools.verify import verify_store
from tests.servers import Server

ROOT = Path(__file__).parents[3]
Array = np.ndarray[Any, Any]


@pytest.fixture
def url(complete: Path, web: Server) -> str:
    """The finished store behind nginx."""
    complete.rename(web.root / "store.zarr")
    return f"{web.url}/store.zarr"


@pytest.fixture
def cached(tmp_path: Path) -> Callable[[], list[Path]]:
    """The files that are in the cache."""
    return lambda: sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())


class Rotten(BaseHTTPRequestHandler):
    """Serves ``content``, spoilt in as many answers as ``spoilt`` says; before that ``failures`` answers are 503."""

    content = bytes(range(200))
    spoilt = 0
    failures = 0
    answers: ClassVar[list[str]] = []
    place: ClassVar[RemotePath]

    def do_GET(self) -> None:
        kind = type(self)
        status, content = 200, kind.content
        if kind.failures:
            kind.failures, status, content = kind.failures - 1, 503, b""
        elif kind.spoilt:
            kind.spoilt, content = kind.spoilt - 1, b"?" + content[1:]
        kind.answers.append(f"{status} {len(content)}")
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Last-Modified", "Tue, 24 Nov 2026 12:00:00 GMT")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def rotten(here: None) -> Iterator[type[Rotten]]:
    """A handler of its own, served at ``place``."""

    class Mine(Rotten):
        answers: ClassVar[list[str]] = []

    with ThreadingHTTPServer(("127.0.0.1", 0), Mine) as server:
        Mine.place = RemotePath(f"http://127.0.0.1:{server.server_port}", "chunk")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Mine
        server.shutdown()


def part_of(content: bytes) -> Part:
    return Part(size=len(content), xxh3_64=xxhash.xxh3_64_hexdigest(content))


def test_what_was_read_once_is_not_fetched_again(url: str, web: Server, values: Callable[..., Array]) -> None:
    store = open_store(url)
    store["train"].view(1)
    before = web.requests()
    assert sum("embeddings/c/1/" in path for path in before) == 5
    assert all((web.root / path[1:]).is_file() for path in before)  # what is not there a bucket may refuse to anybody
    np.testing.assert_array_equal(store["train"].view(1), values(1, slice(0, 22)))
    store["train"].rows(1, [3, 20])
    assert web.requests() == before


def test_another_process_finds_the_chunks(url: str, web: Server) -> None:
    open_store(url)["train"].view(2)
    before = [path for path in web.requests() if "/c/" in path]
    program = f"from compress_ssl.storage import open_store; print(open_store({url!r})['train'].view(2).shape)"
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout == "(22, 4)\n"
    assert [path for path in web.requests() if "/c/" in path] == before


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_chunk_that_was_damaged_in_the_cache_is_fetched_again(
    url: str, web: Server, cached: Callable[[], list[Path]], values: Callable[..., Array], damage: bytes | None
) -> None:
    store = open_store(url)
    store["train"].view(1)
    before = len(web.requests())
    for file in cached():
        content = file.read_bytes()
        file.write_bytes(bytes([content[0] ^ 1]) + content[1:] if damage is None else damage)
    np.testing.assert_array_equal(store["train"].view(1), values(1, slice(0, 22)))
    assert len(web.requests()) == before + 5
    store["train"].view(1)
    assert len(web.requests()) == before + 5


@pytest.mark.parametrize("name", ["embeddings/c/1/2/0", "label/c/1"])
@pytest.mark.parametrize("damage", ["flipped", "cut short", "missing"])
def test_chunk_that_is_damaged_at_the_server_is_never_read(url: str, web: Server, name: str, damage: str) -> None:
    chunk = web.root / "store.zarr" / "train" / name
    content = chunk.read_bytes()
    chunk.unlink()
    if damage != "missing":
        chunk.write_bytes(bytes([content[0] ^ 1]) + content[1:] if damage == "flipped" else content[:-1])
    train = open_store(url)["train"]
    with pytest.raises(
        StoreDamagedError, match=rf"'{url}/train/{name}' (is missing|has other content than was committed)"
    ):
        _ = train.view(1) if name.startswith("emb") else train.samples
    assert [sentence.split("'")[1] for sentence in verify_store(open_store(url)).damaged] == [f"{url}/train/{name}"]


def test_verify_reads_the_server_not_the_cache(url: str, web: Server) -> None:
    store = open_store(url)
    store["train"].view(1)
    (web.root / "store.zarr/train/embeddings/c/1/0/0").unlink()
    assert len(verify_store(store).damaged) == 1


def test_chunk_that_comes_wrong_once_is_fetched_a_second_time(rotten: type[Rotten], tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path / "chunks", 10**6)
    rotten.spoilt = 1
    assert cache.read(rotten.place, part_of(rotten.content)) == rotten.content
    assert rotten.answers == ["200 200"] * 2


def test_chunk_that_comes_wrong_twice_is_damaged_and_not_kept(rotten: type[Rotten], tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path / "chunks", 10**6)
    rotten.spoilt = 2
    with pytest.raises(StoreDamagedError, match="has other content than was committed"):
        cache.read(rotten.place, part_of(rotten.content))
    assert not (tmp_path / "chunks").exists()


def test_server_that_is_busy_is_asked_again(rotten: type[Rotten], tmp_path: Path) -> None:
    rotten.failures = 2
    cache = ChunkCache(tmp_path / "chunks", 10**6)
    assert cache.read(rotten.place, part_of(rotten.content)) == rotten.content
    assert rotten.answers == ["503 0", "503 0", "200 200"]


def test_server_that_stays_busy_is_a_sentence(rotten: type[Rotten], tmp_path: Path) -> None:
    rotten.failures = 10**6
    with pytest.raises(
        StoreUnreachableError, match=r"^'http://\S+/chunk' cannot be used: the server answers 503 Service"
    ):
        ChunkCache(tmp_path / "chunks", 10**6).read(rotten.place, part_of(rotten.content))


class Chunks:
    """Some chunks of 100 bytes on a disk, behind nginx."""

    def __init__(self, web: Server, count: int) -> None:
        self.places = [location(f"{web.url}/{number}") for number in range(count)]
        self.contents = [bytes([number]) * 100 for number in range(count)]
        for number, content in enumerate(self.contents):
            (web.root / str(number)).write_bytes(content)

    def read(self, cache: ChunkCache, number: int) -> None:
        place = self.places[number]
        assert isinstance(place, RemotePath)
        assert cache.read(place, part_of(self.contents[number])) == self.contents[number]
        time.sleep(0.02)  # a file's time is no finer than the kernel's clock


def test_chunks_not_used_for_longest_make_room(web: Server, tmp_path: Path) -> None:
    chunks, cache = Chunks(web, 12), ChunkCache(tmp_path / "chunks", 1000)
    users = tmp_path / "chunks" / "ab" / "photographs.tar"
    users.parent.mkdir(parents=True)
    users.write_bytes(bytes(5000))
    for number in range(10):
        chunks.read(cache, number)
    chunks.read(cache, 0)
    chunks.read(cache, 10)  # 1,100 bytes would be too many; 900 stay
    assert sum(file.stat().st_size for file in (tmp_path / "chunks").glob("??/*")) == 900 + 5000
    before = len(web.requests())
    for number in (0, 10, 9, 3):
        chunks.read(cache, number)
    assert len(web.requests()) == before
    chunks.read(cache, 1)
    assert len(web.requests()) == before + 1


def test_chunk_larger_than_the_bound_is_read_and_not_kept(web: Server, tmp_path: Path) -> None:
    Chunks(web, 1).read(ChunkCache(tmp_path / "chunks", 99), 0)
    assert not (tmp_path / "chunks").exists()


def test_cache_that_cannot_be_written_is_a_warning(
    web: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "chunks").write_text("a file")
    chunks = Chunks(web, 2)
    for number in (0, 1):  # each store has a cache of its own
        chunks.read(ChunkCache(tmp_path / "chunks", 1000), number)
    (message,) = caplog.messages
    assert message.startswith(f"The cache '{tmp_path / 'chunks'}' is not writable")


def test_store_that_replaced_another_is_read_anew(
    url: str, web: Server, made: Path, fill: Callable[[Path], None], plan: Callable[..., Any]
) -> None:
    from compress_ssl.storage.writer import create_store

    first = open_store(url)["train"].view(0)
    create_store(web.root / "store.zarr", {"teacher": {}}, {"train": plan(20)}, overwrite=True)
    fill(web.root / "store.zarr")
    assert (len(first), len(open_store(url)["train"].view(0))) == (22, 20)


READ = """
import sys
from compress_ssl.storage import location
from compress_ssl.storage.places.cache import ChunkCache
import xxhash, random
cache = ChunkCache()
for seed in range(300):
    number = random.Random(f"{sys.argv[2]} {seed}").randrange(20)
    content = bytes([number]) * 100
    part = {"size": 100, "xxh3_64": xxhash.xxh3_64_hexdigest(content)}
    assert cache.read(location(f"{sys.argv[1]}/{number}"), part) == content
"""


def test_processes_share_a_cache_that_is_too_small_for_them(web: Server, tmp_path: Path) -> None:
    Chunks(web, 20)
    environment = {**os.environ, "COMPRESS_SSL_CACHE": str(tmp_path / "chunks"), "COMPRESS_SSL_CACHE_BYTES": "1000"}
    readers = [
        subprocess.Popen([sys.executable, "-c", READ, web.url, str(number)], cwd=ROOT, env=environment)
        for number in range(3)
    ]
    assert [reader.wait(120) for reader in readers] == [0, 0, 0]
    assert sum(file.stat().st_size for file in (tmp_path / "chunks").glob("??/*")) <= 1000 + 2 * 100


@pytest.mark.parametrize("bound", ["100GB", "-1", "nan"])
def test_bound_that_is_no_number_is_refused(here: None, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    monkeypatch.setenv("COMPRESS_SSL_CACHE_BYTES", bound)
    with pytest.raises(StoreError, match=f"COMPRESS_SSL_CACHE_BYTES must be a number of bytes, got '{bound}'"):
        ChunkCache()
