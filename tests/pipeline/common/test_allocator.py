"""Freed memory stays with the process, and goes back when a stage begins."""

import resource
from pathlib import Path

import dask
import torch

from compress_ssl.pipeline.common.allocator import keep_freed_memory
from compress_ssl.pipeline.dask.cluster import open_client
from compress_ssl.pipeline.dask.settings import DaskSettings
from tests.processes import Forked

MEBIBYTES = 200
PAGES = MEBIBYTES * 2**20 // resource.getpagesize()


def faults_of_a_tensor() -> int:
    """Fill a large tensor and free it; the page faults that took."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(MEBIBYTES * 2**20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


def measure() -> None:
    faults_of_a_tensor()
    assert faults_of_a_tensor() > PAGES // 2048  # in huge pages, at the least
    keep_freed_memory()
    faults_of_a_tensor()
    kept = resident_pages()
    faults = [faults_of_a_tensor() for _ in range(5)]
    assert min(faults) < 20, faults  # the kernel may move or reclaim some pages meanwhile
    keep_freed_memory()
    assert resident_pages() < kept - PAGES // 2


def test_a_tensor_reuses_the_memory_of_the_one_before_until_a_stage_begins() -> None:
    process = Forked(measure)
    assert process.wait() == 0, process.errors


def faults_of_tensors() -> list[int]:
    """Fill and free tensors that a thread's own arena cannot hold; the page faults of each."""
    return [faults_of_a_tensor() for _ in range(20)]


def test_tasks_of_a_dask_worker_reuse_the_memory_of_tensors() -> None:
    spawned = {"distributed.worker.multiprocessing-method": "spawn"}  # as outside of the tests
    with dask.config.set(spawned), open_client(DaskSettings(workers=1)) as client:
        client.run(keep_freed_memory)
        assert min(client.submit(faults_of_tensors).result()) < 20
