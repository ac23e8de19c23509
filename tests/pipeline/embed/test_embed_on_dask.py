"""Stage one on a cluster of processes: the same bytes as one process, lost workers cost their blocks in flight."""

import itertools
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from pydantic import ValidationError

from compress_ssl.cli.main import main
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.common.torch_errors import OutOfMemory, explain_out_of_memory
from compress_ssl.pipeline.dask.cluster import IN_FLIGHT, open_client, run_tasks
from compress_ssl.pipeline.dask.settings import DaskSettings
from compress_ssl.pipeline.embed import on_dask
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.embed.verify.on_dask import verify_on_dask
from compress_ssl.pipeline.networks.network import load_network, save_network
from compress_ssl.storage import EmbeddingStore, LocalPath, open_store
from compress_ssl.storage.commits import read_records
from compress_ssl.storage.errors import NotRepresentableError, StoreBusyError
from compress_ssl.storage.places.lease_file import LeaseFile
from compress_ssl.storage.places.place import writer_lease
from compress_ssl.storage.tools.verify import verify_store

Embedded = Callable[..., EmbeddingStore]
WORKERS, KILLS = 2, 2
BLOCKS = 18 + 4
"""Of two images each, in ``train`` and ``val``."""

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning:distributed", "ignore::DeprecationWarning:distributed")


@pytest.fixture(scope="module")
def processes(dask_processes: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with dask_processes(tmp_path_factory.mktemp("dask") / "notes") as cluster:
        cluster.start_scheduler()
        cluster.start_worker("--nworkers", str(WORKERS))
        cluster.wait(WORKERS)
        yield cluster


@pytest.fixture
def cluster(processes: Any) -> Any:
    """A scheduler and two workers, which have noted nothing and are told nothing."""
    for note in ("blocks", "seconds", "failure-*"):
        for path in processes.notes.glob(note):
            path.unlink()
    return processes


@pytest.fixture(scope="module")
def one(images: Callable[..., Path], embedded: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store that one process makes of images such as ``data``'s; read it, never change it."""
    folder = tmp_path_factory.mktemp("one")
    return Path(str(embedded(images(folder / "data"), folder / "store.zarr", block_rows=2).path))


def files(store: Path) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def test_the_workers_of_a_scheduler_write_the_same_bytes_as_one_process(
    data: Path, tmp_path: Path, embedded: Embedded, one: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths are given from a working folder that the workers are not in."""
    monkeypatch.chdir(tmp_path)
    store = embedded(Path("data"), Path("store.zarr"), block_rows=2, scheduler=cluster.address)
    assert files(tmp_path / "store.zarr") == files(one)
    assert len(cluster.blocks()) == BLOCKS
    assert len({process for process, *_ in cluster.blocks()}) == WORKERS
    assert verify_store(store).ok


def test_workers_started_here_write_the_same_bytes_as_one_process(
    data: Path, tmp_path: Path, embedded: Embedded, one: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="compress_ssl")
    embedded(data, tmp_path / "store.zarr", block_rows=2, workers=2, threads=2)
    assert files(tmp_path / "store.zarr") == files(one)
    assert "Dashboard of the cluster: http://127.0.0.1:" in caplog.text


def test_killed_workers_cost_their_blocks_in_flight(
    data: Path, tmp_path: Path, embedded: Embedded, one: Path, cluster: Any
) -> None:
    (cluster.notes / "seconds").write_text("0.3")
    place = tmp_path / "store.zarr"
    committed: list[dict[str, tuple[int, int]]] = []

    def kill() -> None:
        for kill in range(KILLS):
            process, *_ = cluster.next_block(4 + 7 * kill)
            committed.append(chunks(place))
            os.kill(process, signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    embedded(data, place, block_rows=2, scheduler=cluster.address)
    killing.join()
    assert files(place) == files(one)
    assert BLOCKS <= len(cluster.blocks()) <= BLOCKS + KILLS * IN_FLIGHT
    for before in committed:
        assert before
        assert before == {path: chunks(place)[path] for path in before}


def chunks(place: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of writing of the embeddings of every committed (view, block) of ``train``."""
    paths = [
        place / f"train/embeddings/c/{view}/{block}/0"
        for view in range(3)
        for block in read_records(LocalPath(place / "train"), str(view))
    ]
    stats = {str(path): path.stat() for path in paths}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}


def test_a_block_that_fails_once_is_done_again(
    data: Path, tmp_path: Path, embedded: Embedded, one: Path, cluster: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (cluster.notes / "failure-0").touch()
    embedded(data, tmp_path / "store.zarr", block_rows=2, scheduler=cluster.address)
    assert files(tmp_path / "store.zarr") == files(one)
    assert "of split train failed and is tried again: a hiccup" in caplog.text


def test_a_block_that_fails_three_times_ends_the_run_with_its_error(
    data: Path, tmp_path: Path, embedded: Embedded, cluster: Any
) -> None:
    for number in range(100):
        (cluster.notes / f"failure-{number}").touch()
    with pytest.raises(OSError, match=r"^a hiccup$"):
        embedded(data, tmp_path / "store.zarr", split=("train",), scheduler=cluster.address)
    assert max(Counter(number for _, _, number in cluster.blocks()).values()) == 3


def test_what_the_user_must_mend_is_not_tried_again(
    data: Path, tmp_path: Path, embedded: Embedded, cluster: Any
) -> None:
    network = load_network("random/conv4-16")
    with torch.no_grad():
        network.module.get_submodule("13").weight.mul_(1e30)
    save_network(tmp_path / "broken.safetensors", network)
    with pytest.raises(NotRepresentableError, match=r"^The worker on .+: .*split train, row \d+, view 0\) holds "):
        embedded(data, tmp_path / "s.zarr", teacher=str(tmp_path / "broken.safetensors"), scheduler=cluster.address)
    assert set(Counter((split, number) for _, split, number in cluster.blocks()).values()) == {1}


def test_full_memory_of_a_worker_is_known_to_the_client(cluster: Any) -> None:
    with (
        open_client(DaskSettings(scheduler=cluster.address)) as client,
        pytest.raises(OutOfMemory, match=r"^take less\.$"),
        explain_out_of_memory("take less."),
    ):
        list(run_tasks(client, torch.empty, [2**50]))


def test_workers_that_die_while_they_are_inspected_are_not_waited_for(
    data: Path, tmp_path: Path, embedded: Embedded, cluster: Any
) -> None:
    """Both workers do, so that the run waits for one that starts again."""
    for number in range(WORKERS):
        (cluster.notes / f"fatal-{number}").touch()
    store = embedded(data, tmp_path / "store.zarr", split=("train",), scheduler=cluster.address)
    assert not list(cluster.notes.glob("fatal-*"))
    assert verify_store(store).ok


def test_tasks_are_listed_when_a_worker_is_free_for_them(cluster: Any) -> None:
    """The list has no end."""
    listed = itertools.count()
    with open_client(DaskSettings(scheduler=cluster.address)) as client:
        found = dict(itertools.islice(run_tasks(client, str, listed), 10))
    assert found == {number: str(number) for number in found}
    assert len(found) == 10
    assert next(listed) <= 10 + WORKERS * IN_FLIGHT


def test_verification_on_a_cluster_finds_what_that_in_one_process_does(one: Path, tmp_path: Path, cluster: Any) -> None:
    one = Path(shutil.copytree(one, tmp_path / "store.zarr"))
    whole = verify_on_dask(one, DaskSettings(scheduler=cluster.address), Silent())
    assert whole == verify_store(open_store(one))
    assert whole.ok
    for chunk in ("0/3/0", "1/17/0"):
        path = one / "train/embeddings/c" / chunk
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    (one / "val/label/c/3").unlink()
    damaged = verify_on_dask(one, DaskSettings(scheduler=cluster.address), Silent())
    assert damaged == verify_store(open_store(one))
    assert len(damaged.damaged) == 3


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"versions": {"compress-ssl": "0.0.1"}},
            "^it has compress-ssl .*, the client 0.0.1; install the same version",
        ),
        ({"weights_sha256": "0" * 64}, "^'random/conv4-16' has other weights here than where the client runs"),
    ],
)
def test_a_worker_that_would_compute_something_else_is_refused(
    data: Path, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    run = a_run(data, tmp_path)
    assert on_dask.embedder_of(run).batch_size == 128
    with pytest.raises(InputError, match=sentence):
        on_dask.embedder_of(replace(run, id="another", **change))


def test_a_worker_without_instructions_for_the_precision_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)  # a CPU without AVX-512 has it neither
    run = a_run(data, tmp_path)
    half = run.settings.model_copy(update={"precision": "bfloat16"})
    with pytest.raises(InputError, match=r"^it only emulates bfloat16; leave it out, or give --precision float32"):
        on_dask.embedder_of(replace(run, id="half", settings=half))


@pytest.mark.parametrize(
    ("asked", "chosen"), [("auto", "float16"), ("bfloat16", "bfloat16"), ("float16", "float16"), ("float32", "float32")]
)
def test_a_client_without_a_gpu_chooses_the_precision_of_workers_with_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu = on_dask._WorkerInfo("node-1", "cuda", "NVIDIA H100", 8)
    monkeypatch.setattr(on_dask, "_inspect_workers", lambda client, device: [gpu])
    settings = a_run(data, tmp_path).settings.model_copy(update={"precision": asked, "device": "auto"})
    client: Any = None  # not asked
    assert on_dask.DaskExecutor(client, settings).compute.precision == chosen


def a_run(data: Path, tmp_path: Path) -> on_dask.RunInfo:
    settings = EmbedSettings(
        data=data,
        store=tmp_path / "store.zarr",
        teacher="random/conv4-16",
        threads=1,
        device="cpu",
        precision="float32",
    )
    sha = load_network("random/conv4-16").identity()["weights_sha256"]
    return on_dask.RunInfo("one", settings, "cpu", sha, {})


def test_a_worker_does_not_write_into_another_store_than_the_clients(
    data: Path, tmp_path: Path, embedded: Embedded
) -> None:
    store = embedded(data, tmp_path / "store.zarr")
    run = a_run(data, tmp_path)
    records = sorted((store.path / "train/embeddings/commits").glob("*.json"))
    records[0].unlink()  # it has something to do
    with writer_lease(store.path) as lease:
        (tmp_path / "elsewhere").mkdir()
        by_another_way = LeaseFile(tmp_path / "elsewhere/store.zarr.lease")  # a client's that has other links
        by_another_way.path.hardlink_to(lease.slot.path)
        writer = on_dask.writer_of(run, replace(lease, slot=by_another_way))
        assert (writer.path, writer.holder) == (store.path, lease.holder)
        with pytest.raises(StoreBusyError, match="was taken over by another writer"):
            on_dask.writer_of(replace(run, id="later"), replace(lease, holder="of another client"))


def test_a_scheduler_that_does_not_answer_is_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress_ssl.pipeline.dask.cluster.CONNECT_SECONDS", 1)
    words = ["embed", data, tmp_path / "s.zarr", "--teacher", "random/conv4-16", "--scheduler", "tcp://127.0.0.1:9"]
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith(
        "Error: No dask scheduler answers at 'tcp://127.0.0.1:9'; start one"
    )
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"workers": 2, "scheduler": "tcp://a:1"}, "give one of them"),
        ({"scheduler": "a:1"}, "'a:1' is no address"),
        ({"workers": 2, "pixel_hashes": 5}, "a log of one process"),
        ({"workers": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        EmbedSettings(data=Path("data"), store=Path("s.zarr"), teacher="random/conv4-16", **given)


def test_a_store_grows_on_a_cluster_as_it_does_in_one_process(
    data: Path, tmp_path: Path, embedded: Embedded, cluster: Any
) -> None:
    for name, where in (("one", {}), ("many", {"scheduler": cluster.address})):
        embedded(data, tmp_path / name / "store.zarr", split=("train",))
        more = {"teacher": "random/conv4-16", "threads": 1, "batch_size": 5, "add_views": 2, **where}
        for resume in (False, True):  # the second finds it done
            embed(EmbedSettings(data=data, store=tmp_path / name / "store.zarr", resume=resume, **more), Silent())
    many = open_store(tmp_path / "many" / "store.zarr")["train"]
    assert many.complete_views == [0, 1, 2, 3, 4]
    assert files(tmp_path / "many" / "store.zarr") == files(tmp_path / "one" / "store.zarr")
