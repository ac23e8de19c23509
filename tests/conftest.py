"""What all tests share."""

import json
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from compress_ssl.pipeline.common.settings import Settings
from compress_ssl.storage.signals import stop_handlers
from tests.pipeline.images.tar_files import unpack
from tests.processes import PRELOADED, preload, start_ranks

ROOT = Path(__file__).parents[1]

InTwoProcesses = Callable[[Sequence[tuple[str, list[Settings]]]], tuple[list[Any], list[Any]]]

# Where this is set, each of the many processes that tests start would compile the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

pytest_plugins = ["tests.servers", "tests.google_server"]

if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # A core each: the threads of two workers' networks, as many as there are cores, would wait for each other. The one
    # more than cores takes what they leave.
    cores, number = sorted(os.sched_getaffinity(0)), int(worker.removeprefix("gw"))
    os.sched_setaffinity(0, {cores[number]} if number < len(cores) else cores)

# As in a shell's background job, or after nohup; what tests start shall hear them.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


def pytest_xdist_auto_num_workers() -> int:
    """Return the workers of ``-n auto``: one more than cores, since many tests wait for processes and servers."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slow",
        default="all",
        metavar="none|all|K/N",
        help="slow tests to run: none, all, or the K-th of N parts (modulo N)",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    slow = [item for item in items if item.get_closest_marker("slow")]
    wanted = config.getoption("slow")
    if wanted == "none":
        left_out = slow
    elif wanted == "all":
        left_out = []
    elif match := re.fullmatch(r"(\d+)/([1-9]\d*)", wanted):
        part, parts = map(int, match.groups())
        left_out = [item for number, item in enumerate(slow) if number * parts // len(slow) != part % parts]
    else:
        raise pytest.UsageError(f"--slow takes none, all or K/N, not '{wanted}'.")
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session", autouse=True)
def preloaded() -> None:
    """Processes that tests start are forks of one that has imported everything."""
    preload(PRELOADED)


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """Commands set signal handlers, torch's threads and determinism, and the log's level, here of the tests' process.

    One thread: on a busy machine torch's threads wait for each other. Tests that are about threads set their own.
    """
    threads, deterministic = torch.get_num_threads(), torch.backends.cudnn.deterministic
    torch.set_num_threads(1)
    handlers, hook = stop_handlers(), sys.unraisablehook
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    sys.unraisablehook = hook
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = deterministic
    logging.getLogger("compress_ssl").setLevel(logging.NOTSET)


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that every user can reach."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clothing photographs, unpacked: ``train`` and ``test``, each with a folder a class."""
    unpacked = tmp_path_factory.mktemp("photographs")
    unpack(_archive("clothing.tar"), unpacked)
    return unpacked


@pytest.fixture(scope="session")
def efficientnet_lite0() -> str:
    """The reference of a real trained network in a file."""
    return f"timm/tf_efficientnet_lite0:{_archive('efficientnet-lite0.safetensors')}"


@pytest.fixture(scope="session")
def blood_cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The blood cells of BCCD, unpacked: 364 images in VOC's layout, ``trainval`` and ``test``."""
    unpacked = tmp_path_factory.mktemp("bccd")
    unpack(_archive("bccd-voc.tar"), unpacked)
    return unpacked / "BCCD"


@pytest.fixture(scope="session")
def voc_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small images in VOC's layout, not to be changed: 24 in ``trainval``, 8 in ``test``.

    They are grey, with red and blue squares.

    Every fourth has no object, the others have one or two; the second of two is difficult in every other image.
    """
    generator = np.random.default_rng(0)
    data = tmp_path_factory.mktemp("voc-images") / "voc"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (data / folder).mkdir(parents=True)
    for split, numbers in (("trainval", range(24)), ("test", range(24, 32))):
        names = [f"{number:06d}" for number in numbers]
        (data / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for number, name in zip(numbers, names, strict=True):
            objects = _squares(generator, number)
            pixels = generator.integers(90, 130, (48, 64, 3), dtype=np.uint8)
            for kind, (xmin, ymin, xmax, ymax), _ in objects:
                pixels[ymin - 1 : ymax, xmin - 1 : xmax] = (220, 30, 30) if kind == "red" else (30, 30, 220)
            Image.fromarray(pixels).save(data / "JPEGImages" / f"{name}.jpg", quality=95)
            (data / "Annotations" / f"{name}.xml").write_text(_annotation(name, objects))
    return data


@pytest.fixture
def voc(voc_images: Path, tmp_path: Path) -> Path:
    """A copy of ``voc_images`` for one test."""
    return Path(shutil.copytree(voc_images, tmp_path / "voc"))


Square = tuple[str, tuple[int, int, int, int], bool]


def _squares(generator: np.random.Generator, number: int) -> list[Square]:
    """Class, box and difficulty of the squares of an image: at most one in its left half, one in its right half."""
    squares: list[Square] = []
    for half in range(min(2, number % 4)):
        side = int(generator.integers(12, 24))
        xmin, ymin = (int(low + generator.integers(1, high - side)) for low, high in ((32 * half, 32), (0, 48)))
        kind = ("red", "blue")[int(generator.integers(2))]
        squares.append((kind, (xmin, ymin, xmin + side - 1, ymin + side - 1), half == 1 and number % 2 == 0))
    return squares


def _annotation(name: str, squares: list[Square]) -> str:
    objects = "".join(
        f"<object><name>{kind}</name><difficult>{int(difficult)}</difficult><bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin>"
        f"<xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>\n"
        for kind, (xmin, ymin, xmax, ymax), difficult in squares
    )
    size = "<size><width>64</width><height>48</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}.jpg</filename>{size}\n{objects}</annotation>\n"


def _archive(name: str) -> Path:
    folder = Path(os.environ.get("COMPRESS_SSL_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / name).is_file():
        pytest.skip(f"no {name} in '{folder}'; COMPRESS_SSL_TEST_DATA names the folder that holds it")
    return folder / name


@pytest.fixture(scope="session")
def in_two_processes(tmp_path_factory: pytest.TempPathFactory) -> InTwoProcesses:
    """Do works (stage, settings, ...) in two ranks on this machine's CPU; what each ended every work with."""

    def run(works: Sequence[tuple[str, list[Settings]]]) -> tuple[list[Any], list[Any]]:
        from tests.pipeline.training.rank import do_works

        file = tmp_path_factory.mktemp("torchrun") / "works.json"
        told = [(stage, [each.model_dump(mode="json", exclude_unset=True) for each in given]) for stage, given in works]
        file.write_text(json.dumps(told))
        started = start_ranks(*[(do_works, file)] * 2)
        for process in started:
            assert process.wait(240) == 0, process.errors
        first, second = (json.loads(file.with_suffix(f".{rank}.json").read_text()) for rank in (0, 1))
        return first, second

    return run
