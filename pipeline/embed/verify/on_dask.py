"""``store verify`` on a Dask cluster: one task per block."""

import socket

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
    add_up,
    blocks_to_verify,
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
    blocks, foreseen = blocks_to_verify(open_store(place.absolute()), sample, seed)
    checked: dict[int, CheckedBlock] = {}
    with open_client(settings) as client, progress.track("verify", len(blocks), "blocks") as advance:
        for (number, _), found in run_tasks(client, _verify, enumerate(blocks)):
            checked[number] = found
            advance(1)
    return add_up(foreseen, (checked[number] for number in sorted(checked)))


def _verify(task: tuple[int, CommittedBlock]) -> CheckedBlock:
    _, block = task
    if not has_zarr_metadata(block.split):
        raise InputError(
            f"The worker on {socket.gethostname()} does not see '{block.split}'; put the store where all "
            f"workers see it."
        )
    return verify_block(block)
