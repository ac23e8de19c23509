"""Stores, runs and recipe folders of the release before the new layout open, verify, resume and are up to date.

``tests/data/README.md`` lists what the archive holds and how it was made.
"""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from compress_ssl.cli.main import main
from tests.pipeline.images.tar_files import unpack

ARCHIVE = Path(__file__).with_name("data") / "release-0.1.0.tar.xz"

ONE_CPU = "--threads 1 --device cpu"
TRAINING = f"--epochs 3 --batch-size 8 --keep-every 1 {ONE_CPU}"
DISTILLED = {
    "compress-2q": "--objective compress-2q --bank-size 16 --mask-own --centre",
    "compress-1q": "--objective compress-1q --bank-size 16 --anchors k-means",
    "reg": "--objective reg",
    "reg-bn": "--objective reg-bn",
    "simreg": "--objective simreg",
    "seed": "--objective seed --bank-size 16",
    "crd": "--objective crd --negatives 8",
    "cc": "--objective cc --clusters 4",
    "two-teachers": "--objective compress-2q --bank-size 16 --also-store other.zarr",
}
PRETRAINED = {"simclr": "", "moco-v2": "--queue-size 16", "supervised": ""}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive with its modification times, which say whether images have changed."""
    folder = tmp_path_factory.mktemp("earlier")
    unpack(ARCHIVE, folder)
    return folder


@pytest.fixture
def earlier(unpacked: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archive as the working folder."""
    monkeypatch.chdir(unpacked)
    return unpacked


def call(words: str) -> None:
    main(words.split(), standalone_mode=False)


def assert_same_weights(run: Path, expected: Path) -> None:
    """Equal up to what the kinds of machines differ by in a few steps."""
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (run, expected))
    assert ours.keys() == theirs.keys()
    for key, weights in ours.items():
        assert_close(weights, theirs[key], rtol=1e-3, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


def test_stores_verify_and_open(earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for store in ("whole.zarr", "other.zarr", "recipe/embeddings.zarr"):
        call(f"store verify {store} --json")
        assert json.loads(capsys.readouterr().out)["ok"] is True
    call("store info whole.zarr --json")
    described = json.loads(capsys.readouterr().out)
    assert described["complete"] is True
    assert described["splits"]["train"]["samples"] == 24


def test_unfinished_store_is_completed_to_the_same_bytes(earlier: Path) -> None:
    call(
        "embed images half.zarr --teacher recipe/teacher --views 2 --size 16 --resize 16 --block-rows 4 --batch-size 4 "
        f"--index-folder index --resume {ONE_CPU}"
    )
    whole = {path.relative_to("whole.zarr"): path.read_bytes() for path in Path("whole.zarr").rglob("c/*/*/*")}
    assert len(whole) == 40
    assert whole == {path.relative_to("half.zarr"): path.read_bytes() for path in Path("half.zarr").rglob("c/*/*/*")}


def test_hdf5_file_becomes_the_store_it_was_exported_from(earlier: Path) -> None:
    call("store import whole.h5 imported.zarr")
    for path in Path("whole.zarr").rglob("c/*/*/*"):
        assert Path("imported.zarr", path.relative_to("whole.zarr")).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", DISTILLED)
def test_interrupted_distillation_resumes_to_the_same_weights(earlier: Path, name: str) -> None:
    call(
        f"distill whole.zarr images interrupted/{name} --student conv4-16 --milestones 1 {DISTILLED[name]} {TRAINING} "
        "--resume"
    )
    assert_same_weights(earlier / "interrupted" / name, earlier / "finished" / name)
    lines = (earlier / "interrupted" / name / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("method", PRETRAINED)
def test_interrupted_pretraining_resumes_to_the_same_weights(earlier: Path, method: str) -> None:
    run = f"pretrain-{method}"
    call(
        f"pretrain images interrupted/{run} --arch conv4-16 --method {method} --size 16 --resize 16 "
        f"{PRETRAINED[method]} "
        f"{TRAINING} --index-folder index --resume"
    )
    assert_same_weights(earlier / "interrupted" / run, earlier / "finished" / run)


def test_every_step_of_a_recipe_folder_is_up_to_date(earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("run recipe.toml --dry-run")
    steps = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert len(steps) == 10
    assert all("up to date" in line for line in steps), steps
