"""``store verify`` on a Dask cluster: one task per block."""

import itertools
import socket
from typing import NamedTuple

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.dask.cluster import open_client, run_tasks
from compress_ssl.pipeline.dask.settings import DaskSettings
from compress_ssl.storage import Place, open_store
from compress_ssl.storage.publish import has_zarr_metadata
from compress_ssl.storage.tools.verify import (
    CheckedBlock,
    CommittedBlock,
    Verification,
    blocks_to_verify,
    combine,
    verify_block,
)


def verify_on_dask(
    place: Place, settings: DaskSettings, progress: Progress, sample: int | None = None, seed: int | None = None
) -> Verification:
    """Return what ``compress_ssl.storage.tools.verify.verify_store`` returns, computed on the settings' cluster.

    Raises:
        InputError: If the cluster cannot be used, or a worker does not see the store.
        RunError: If the cluster is lost.
    """
    blocks, from_records = blocks_to_verify(open_store(place.absolute()), sample, seed)
    checked: dict[int, CheckedBlock] = {}
    with open_client(settings) as client, progress.track("verify", len(blocks), "blocks") as advance:
        for task, found in run_tasks(client, _verify, itertools.starmap(_Task, enumerate(blocks))):
            checked[task.number] = found
            advance(1)
    return combine(from_records, (checked[number] for number in sorted(checked)))


class _Task(NamedTuple):
    """A committed block, and its place among those to verify."""

    number: int
    block: CommittedBlock

    def __str__(self) -> str:
        return f"Block {self.number} to verify"


def _verify(task: _Task) -> CheckedBlock:
    if not has_zarr_metadata(task.block.split):
        raise InputError(
            f"The worker on {socket.gethostname()} does not see '{task.block.split}'; put the store where all "
            f"workers see it."
        )
    return verify_block(task.block)
