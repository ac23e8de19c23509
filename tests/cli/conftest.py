"""A small dataset, a store and a run made from it by the command line, and a way to call it."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from compress_ssl.cli.main import main
from compress_ssl.cli.progress import TerminalProgress

TINY = ("--size", "16", "--resize", "16")
EMBED = (
    *("--teacher", "random/conv4-16", *TINY, "--views", "2", "--block-rows", "4"),
    *("--split", "train", "--split", "val:0"),
)
DISTILL = ("--student", "conv4-16", "--epochs", "2", "--batch-size", "8", "--bank-size", "16")

Call = Callable[..., Result]


def call(*words: str | Path) -> Result:
    """Call the command as a user does; stages get one thread."""
    runs = words[0] in {"embed", "distill", "evaluate", "pretrain"} and not {"-h", "--help"}.intersection(
        map(str, words)
    )
    threads = ("--threads", "1") if runs else ()
    return CliRunner().invoke(main, [*map(str, words), *threads], prog_name="compress-ssl")


def write_images(root: Path, seed: int = 0) -> Path:
    """24 images in ``train``, 8 in ``val``, of two classes."""
    generator = np.random.default_rng(seed)
    for split, count in (("train", 12), ("val", 4)):
        for name in ("apple", "pear"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 255, (20, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return root


OnProgress = Callable[[Callable[[str], object]], AbstractContextManager[None]]


@pytest.fixture
def on_progress(monkeypatch: pytest.MonkeyPatch) -> OnProgress:
    """Inside the block, call a function with the title of whatever a command reports progress of."""

    @contextlib.contextmanager
    def calling(act: Callable[[str], object]) -> Iterator[None]:
        @contextlib.contextmanager
        def track(
            self: TerminalProgress, title: str, total: int, unit: str = "images"
        ) -> Iterator[Callable[[int], object]]:
            yield lambda amount: act(title)

        with monkeypatch.context() as patch:
            patch.setattr(TerminalProgress, "track", track)
            yield

    return calling


@pytest.fixture(name="call")
def call_fixture() -> Call:
    return call


@pytest.fixture(scope="session")
def images() -> Callable[..., Path]:
    return write_images


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data``, ``teacher.zarr`` and the run ``student``; read it, never change it."""
    folder = tmp_path_factory.mktemp("made")
    write_images(folder / "data")
    for words in (
        ("embed", folder / "data", folder / "teacher.zarr", *EMBED),
        ("distill", folder / "teacher.zarr", folder / "data", folder / "student", *DISTILL),
    ):
        result = call(*words)
        assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def workplace(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of ``made`` to do as one likes with; the current folder."""
    shutil.copytree(made, tmp_path / "work")
    for file in (tmp_path / "work" / "teacher.zarr").rglob("*"):
        file.chmod(file.stat().st_mode | 0o200)  # a finished store is read-only
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def embed_options() -> tuple[str, ...]:
    return EMBED


@pytest.fixture
def distill_options() -> tuple[str, ...]:
    return DISTILL
