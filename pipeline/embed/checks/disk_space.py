"""Check before writing that a store fits on the disk."""

from collections.abc import Iterable

from compress_ssl.pipeline.common.memory import format_bytes
from compress_ssl.pipeline.embed.block import Block
from compress_ssl.pipeline.embed.plan import EmbedPlan
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.storage import EmbeddingStore, Place
from compress_ssl.storage.errors import DiskSpaceError
from compress_ssl.storage.recognise import is_store
from compress_ssl.storage.tools.size import StoreSize, block_size, samples_size, size_on_disk, view_size

FILE_BYTES = 4096  # upper bound of what a file takes beyond its bytes: disks allocate whole blocks


def check_new_store_fits(settings: EmbedSettings, plan: EmbedPlan) -> None:
    """Check that a new store fits. A store that it overwrites is deleted before the first block is written.

    Raises:
        DiskSpaceError: If the disk has too little space.
    """
    samples = views = StoreSize()
    for split in plan.splits.values():
        view_count = len(split.views) / (settings.part.of if settings.part else 1)
        one = view_size(split)
        views = views.plus(StoreSize(round(one.bytes * view_count), round(one.files * view_count)))
        samples = samples.plus(samples_size(split))
    advice = "free some space, give another path, or lower --views"
    old = size_on_disk(settings.store).bytes if is_store(settings.store) else 0
    _check(settings.store, samples, advice)
    _check(settings.store, samples.plus(views), advice, freed=old)


def check_blocks_fit(store: EmbeddingStore, blocks: Iterable[Block]) -> None:
    """Check that the missing blocks of a store fit.

    Raises:
        DiskSpaceError: If the disk has too little space.
    """
    needed = StoreSize()
    for block in blocks:
        split = store[block.split]
        one = block_size(split.feature_dim, len(split.columns), split.block_rows)
        needed = needed.plus(one.times(len(block.views)))
    _check(store.path, needed, "free some space; what is there stays")


def _check(place: Place, needed: StoreSize, advice: str, freed: int = 0) -> None:
    left = place.free_bytes()
    total = needed.bytes + needed.files * FILE_BYTES
    if left is not None and total > left + freed:
        and_old = f", and {format_bytes(freed)} that the old store takes" if freed else ""
        raise DiskSpaceError(
            f"Writing '{place}' needs {format_bytes(total)}, and '{place.existing_parent()}' has "
            f"{format_bytes(left)} left{and_old}; {advice}."
        )
