"""What all tests share."""

import os
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clothing photographs, unpacked: ``train`` and ``test``, each with a folder a class."""
    folder = Path(os.environ.get("COMPRESS_SSL_TEST_DATA") or ROOT.parent / "shared" / "data")
    archive = folder / "clothing.tar"
    if not archive.is_file():
        pytest.skip(f"no clothing.tar in '{folder}'; COMPRESS_SSL_TEST_DATA names the folder that holds it")
    unpacked = tmp_path_factory.mktemp("photographs")
    with tarfile.open(archive) as tar:
        tar.extractall(unpacked, filter="data")
    return unpacked
