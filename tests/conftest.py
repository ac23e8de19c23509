"""What all tests share."""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    """The stages set torch's threads and determinism for their process, which here is the tests'.

    One thread: on a busy machine torch's threads wait for each other. Tests that are about threads set their own.
    """
    threads, deterministic = torch.get_num_threads(), torch.backends.cudnn.deterministic
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = deterministic


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
