"""A finished store is protected from slips and open to its group; who owns it can still replace, grow and delete it."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compress_ssl.storage import SplitPlan
from compress_ssl.storage.writer import create_store

ROOT = Path(__file__).parents[2]
# Root may write everything; without this capability it is the owner only.
AS_OWNER = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []


def modes(folder: Path, kind: Callable[[Path], bool]) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*")) if kind(path)}


@pytest.fixture
def finished(tmp_path: Path, plan: Callable[..., SplitPlan], fill: Callable[[Path], None]) -> Path:
    """A store that was written by a user who lets nobody read."""
    before = os.umask(0o077)
    try:
        create_store(tmp_path / "store.zarr", {}, {"train": plan()})
        fill(tmp_path / "store.zarr")
    finally:
        os.umask(before)
    return tmp_path / "store.zarr"


def test_finished_store_is_read_only_and_its_group_may_read_it(finished: Path) -> None:
    assert modes(finished, Path.is_file) == {0o440}
    assert modes(finished, Path.is_dir) == {0o750}


def test_rights_that_others_have_stay(
    tmp_path: Path, plan: Callable[..., SplitPlan], fill: Callable[[Path], None]
) -> None:
    before = os.umask(0o002)
    try:
        create_store(tmp_path / "store.zarr", {}, {"train": plan()})
        fill(tmp_path / "store.zarr")
    finally:
        os.umask(before)
    assert modes(tmp_path / "store.zarr", Path.is_file) == {0o444}
    assert modes(tmp_path / "store.zarr", Path.is_dir) == {0o775}


def test_store_that_is_not_finished_stays_writable(empty: Path) -> None:
    assert all(mode & 0o200 for mode in modes(empty, Path.is_file))


@pytest.mark.parametrize(
    ("program", "answer"),
    [
        ("open('store.zarr/train/embeddings/c/0/0/0', 'wb')", "Permission denied"),
        ("open('store.zarr/zarr.json', 'a')", "Permission denied"),
        ("create_store(Path('store.zarr'), {}, {}, overwrite=True); open_store('store.zarr'); print('done')", "done"),
        ("Path('store.zarr').rename('other'); shutil.rmtree('other'); print('done')", "done"),
        ("w = StoreWriter(Path('store.zarr')); w.finish(); print('done')", "done"),
        ("write_durably(Path('store.zarr/zarr.json'), b'{}'); print('done')", "done"),
    ],
)
def test_owner_cannot_change_a_file_but_can_replace_and_delete_it(finished: Path, program: str, answer: str) -> None:
    imports = (
        "import shutil\nfrom pathlib import Path\nfrom compress_ssl.storage import open_store\n"
        "from compress_ssl.storage.places.durable import write_durably\n"
        "from compress_ssl.storage.writer import StoreWriter, create_store\n"
    )
    command = [*AS_OWNER, sys.executable, "-c", imports + program]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=finished.parent, env=environment, capture_output=True, text=True, check=False)
    assert answer in done.stdout + done.stderr
