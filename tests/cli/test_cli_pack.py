"""``pack``, and the other kinds of datasets, as a user meets them."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from safetensors.numpy import load_file

from compress_ssl.storage import open_store

ROOT = Path(__file__).parents[2]
Call = Callable[..., Result]


def succeed(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


def assert_same_weights(ours: Path, theirs: Path) -> None:
    one, other = (load_file(run / "model.safetensors") for run in (ours, theirs))
    assert one.keys() == other.keys()
    for name, weights in one.items():
        np.testing.assert_array_equal(weights, other[name])


@pytest.fixture
def packed(call: Call, workplace: Path) -> Path:
    succeed(call("pack", "data", "data.h5"))
    return workplace


def test_what_was_packed_is_said(call: Call, packed: Path) -> None:
    again = call("pack", "data", "data.h5", "--overwrite", "--split", "val")
    assert again.stdout.startswith("data.h5: val 8 images, 0.0 MiB")
    as_json = json.loads(call("pack", "data.h5", "other.h5", "--split", "val", "--json").stdout)
    assert as_json == {"file": "other.h5", "bytes": (packed / "other.h5").stat().st_size, "images": {"val": 8}}


def test_a_store_made_from_the_folder_is_distilled_from_its_pack(
    call: Call, packed: Path, distill_options: tuple[str, ...]
) -> None:
    """The folder is gone; the student is the same bit for bit."""
    shutil.rmtree(packed / "data")
    succeed(call("distill", "teacher.zarr", "data.h5", "new/student", *distill_options))
    assert_same_weights(packed / "new" / "student", packed / "student")
    result = succeed(call("evaluate", "new/student", "--data", "data.h5"))
    assert "new/student" in result.stdout


def test_a_store_made_from_the_folder_is_resumed_from_its_pack(
    call: Call, packed: Path, embed_options: tuple[str, ...]
) -> None:
    shutil.rmtree(packed / "data")
    succeed(call("embed", "data.h5", "teacher.zarr", *embed_options, "--resume"))
    succeed(call("embed", "data.h5", "other.zarr", *embed_options))
    ours, theirs = open_store(packed / "other.zarr"), open_store(packed / "teacher.zarr")
    for split in ("train", "val"):
        np.testing.assert_array_equal(ours[split].view(0), theirs[split].view(0))
        assert ours[split].class_names == theirs[split].class_names


def test_pretrain_reads_a_pack(call: Call, packed: Path) -> None:
    options = ("--arch", "conv4-16", "--size", "16", "--epochs", "1", "--batch-size", "8")
    succeed(call("pretrain", "data.h5", "big", *options))
    succeed(call("pretrain", "data", "same", *options))
    assert_same_weights(packed / "big", packed / "same")


def test_a_recipe_reads_a_pack(call: Call, packed: Path) -> None:
    settings = "[settings]\nsize = 16\nresize = 16\nthreads = 1\n"
    (packed / "r.toml").write_text(
        f'folder = "out"\ndata = "data.h5"\n{settings}[embed]\nteacher = "random/conv4-16"\nviews = 1\n'
    )
    succeed(call("run", "r.toml"))
    assert "up to date" in succeed(call("run", "r.toml")).output
    succeed(call("pack", "data", "data.h5", "--overwrite"))
    assert "the images changed" in succeed(call("run", "r.toml", "--dry-run")).output


def test_a_flat_split_is_evaluated_with_a_label_file(call: Call, workplace: Path) -> None:
    """As ImageNet's: class folders in ``train``, a flat ``val``; the same score as with class folders."""
    options = ("evaluate", "student", "--data", "data", "--output", "scores")
    expected = succeed(call(*options)).stdout
    lines = []
    for path in sorted((workplace / "data" / "val").glob("*/*.png")):
        name = f"{path.parent.name}-{path.name}"
        path.rename(workplace / "data" / "val" / name)
        lines.append(f"{name} {path.parent.name}\n")
    for name in ("apple", "pear"):
        (workplace / "data" / "val" / name).rmdir()
    (workplace / "labels.txt").write_text("".join(lines))
    assert call(*options).exit_code == 2
    assert succeed(call(*options, "--labels", "labels.txt")).stdout == expected


UNUSABLE = [
    ("pack nowhere new.h5", "The dataset 'nowhere' does not exist; give the folder or the pack that holds train."),
    ("pack data data.h5", "'data.h5' exists already; use --overwrite to replace it, or another path."),
    ("pack data new.h5 --split test", "The dataset 'data' has no folder 'test'"),
    ("pack data new.h5 --split val --split val", "--split: a split is named twice; name each once."),
    ("pack data new.h5 --split val/apple --split val", "--split: 'val/apple' is in 'val'; pack one of them."),
    ("pack data new.h5 --split . --split val", "'.' is the whole dataset; pack it alone"),
    ("pack data new.h5 --labels labels.txt", "'labels.txt' is for images without labels, but train, val have labels"),
    ("pack notes.txt new.h5", "'notes.txt' is neither a folder nor a pack; make a pack with"),
    ("embed cut.h5 new EMBED", "The pack 'cut.h5' is cut short or damaged; copy it again, or pack the images again."),
    ("embed data.h5 new EMBED --split test", "The pack 'data.h5' has no split 'test'; it has train, val."),
    ("embed data.h5 new EMBED --subset subset.txt", "'a/9.png', one of the images asked for, is not an image in 'da"),
    ("embed tars new EMBED --split val", "'tars/val-000000.tar' is not an uncompressed tar file; copy it again"),
    ("embed lists new EMBED --split val", "Line 1 of 'lists/val.txt', '/a.png', leads out of the list's folder"),
    ("embed lists new EMBED --split few", "The image 'lists/gone.png' cannot be read (No such file or directory)"),
    ("distill teacher.zarr cut.h5 new DISTILL", "The pack 'cut.h5' is cut short"),
    ("distill teacher.zarr other.h5 new DISTILL", "row 0 of split train, 'apple/00.png', is not in 'other.h5/train'"),
    ("evaluate student --data cut.h5", "The pack 'cut.h5' is cut short"),
]


def test_a_data_set_that_cannot_be_used_is_named_and_nothing_is_written(
    call: Call, packed: Path, embed_options: tuple[str, ...], distill_options: tuple[str, ...]
) -> None:
    whole = (packed / "data.h5").read_bytes()
    (packed / "cut.h5").write_bytes(whole[: len(whole) // 2])
    (packed / "notes.txt").write_text("text")
    (packed / "labels.txt").write_text("1 a\n")
    (packed / "subset.txt").write_text("train/a/9.png\n")
    (packed / "tars").mkdir()
    (packed / "tars" / "val-000000.tar").write_bytes(b"text")
    (packed / "lists").mkdir()
    (packed / "lists" / "val.txt").write_text("/a.png\n")
    (packed / "lists" / "few.txt").write_text("gone.png\n")
    shutil.copytree(packed / "data" / "val" / "apple", packed / "others" / "train" / "x")
    succeed(call("pack", "others", "other.h5", "--split", "train"))
    before = {path: path.read_bytes() for path in packed.rglob("*") if path.is_file()}
    for words, sentence in UNUSABLE:
        options = {"EMBED": embed_options[:-4], "DISTILL": distill_options}
        result = call(*(part for word in words.split() for part in options.get(word, (word,))))
        assert result.exit_code == 2, result.output
        last = result.stderr.splitlines()[-1]
        assert last.startswith("Error: ")
        assert sentence in last
        after = {
            path: path.read_bytes() for path in packed.rglob("*") if path.is_file() and path.parent.name != "index"
        }
        assert after == {path: content for path, content in before.items() if path.parent.name != "index"}


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGUSR1, signal.SIGKILL])
def test_a_pack_that_is_stopped_leaves_no_file_and_begins_again(
    call: Call, workplace: Path, end: signal.Signals
) -> None:
    sleepy = (
        "import time\nfrom compress_ssl.pipeline.images.sources.files import FolderSource\nread = FolderSource.read\n"
        "def slowly(self, path):\n    time.sleep(0.5)\n    return read(self, path)\n"
        "FolderSource.read = slowly\nfrom compress_ssl.cli.main import main\nmain(['pack', 'data', 'data.h5'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", sleepy], cwd=workplace, env={"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True
    ) as process:
        while not list(workplace.glob("data.h5.*.partial")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(end)
        _, errors = process.communicate(timeout=60)
    assert not (workplace / "data.h5").exists()
    if end != signal.SIGKILL:
        assert process.returncode == {signal.SIGINT: 130, signal.SIGUSR1: 75}[end]
        assert errors.endswith("Stopped. Run the same command again.\n")
        assert not list(workplace.glob("data.h5.*.partial"))
    succeed(call("pack", "data", "data.h5"))
    assert (workplace / "data.h5").exists()
    assert not list(workplace.glob("data.h5.*.partial"))
