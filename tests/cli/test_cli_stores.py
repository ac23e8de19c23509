"""What ``compress-ssl store`` says of stores, for people and as JSON."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from click.testing import Result

from compress_ssl.storage import location, open_store
from compress_ssl.storage.commits import commit_block, part_of
from compress_ssl.storage.places.place import writer_lease
from compress_ssl.storage.schema import unit_keys

Call = Callable[..., Result]
AGAIN = ("--teacher", "random/conv4-16", "--data", "data", "--threads", "1")


def json_of(result: Result) -> Any:
    return json.loads(result.stdout)


def test_info_says_what_whose_how_large_how_complete(call: Call, workplace: Path) -> None:
    text = call("store", "info", "teacher.zarr").output
    for said in (
        "conv4-16, untrained (conv4-16), 16 features",
        "data, 32 images",
        "complete",
        "by dali on cpu",
        "torch 2",
    ):
        assert said in text
    assert "written by" not in text
    found = json_of(call("store", "info", "teacher.zarr", "--json"))
    chunks = [path for path in (workplace / "teacher.zarr").rglob("c/**/*") if path.is_file()]
    assert (found["objects"], found["stored_bytes"]) == (len(chunks), sum(path.stat().st_size for path in chunks))
    with writer_lease(workplace / "teacher.zarr"):
        assert f"process {os.getpid()} on" in call("store", "info", "teacher.zarr").output


def test_list_has_a_line_for_every_store(call: Call, workplace: Path) -> None:
    shutil.copytree("teacher.zarr", "shelf/broken.zarr")
    Path("shelf/broken.zarr/train/label/zarr.json").unlink()
    result = call("store", "list")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert [line.split()[0] for line in lines] == ["shelf/broken.zarr", "teacher.zarr"]
    assert "damaged: 'shelf/broken.zarr/train/label' is missing" in lines[0]
    assert "32 images, 3 views of 16 features" in lines[1]
    assert lines[1].endswith("complete")
    found = json_of(call("store", "list", ".", "--json"))
    assert [entry["error"] is None for entry in found] == [False, True]
    assert found[1]["found"]["complete"]
    assert "There is no embedding store below 'data'" in call("store", "list", "data").output
    assert call("store", "list", "nowhere").exit_code == 2


def test_card_is_printed_or_written_once(call: Call, workplace: Path) -> None:
    card = call("store", "card", "teacher.zarr").output
    assert card.startswith("---\n")
    assert "\npretty_name: Embeddings of data by conv4-16, untrained\n" in card.split("---\n")[1]
    assert call("store", "card", "teacher.zarr", "--output", "README.md").exit_code == 0
    assert (workplace / "README.md").read_text() == card
    again = call("store", "card", "teacher.zarr", "--output", "README.md")
    assert again.exit_code == 2
    assert "may have been edited" in again.output
    assert json_of(call("store", "card", "teacher.zarr", "--json"))["card"] == card


def test_a_store_is_what_its_teacher_makes_of_its_images(call: Call, workplace: Path) -> None:
    assert workplace.is_dir()
    result = call("store", "verify", "teacher.zarr", *AGAIN, "--json")
    assert result.exit_code == 0, result.output
    train, val = json_of(result)["embedded_again"]
    assert (train["split"], train["images"], val["split"], val["images"]) == ("train", 24, "val", 8)
    assert train["cosine_min"] > 0.9999
    text = call("store", "verify", "teacher.zarr", *AGAIN, "--sample", "3").output
    assert "train: embeddings of 3 images computed again, cosine 1.0000" in text


def test_another_teacher_fails(call: Call, workplace: Path) -> None:
    assert workplace.is_dir()
    result = call("store", "verify", "teacher.zarr", *AGAIN, "--seed", "5", "--json")
    assert result.exit_code == 1
    assert not json_of(result)["ok"]
    assert json_of(result)["embedded_again"][0]["cosine_min"] < 0.999


def test_a_row_that_was_swapped_before_it_was_committed_fails(call: Call, workplace: Path) -> None:
    """Its checksums are right: only embedding it again can tell."""
    split = workplace / "teacher.zarr/val"
    for path in split.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    array = zarr.open_array(split / "embeddings", mode="r+")
    array[0] = np.roll(array[0], 1, axis=0)
    (split / "embeddings/commits/0.json").unlink()
    for block in range(open_store(workplace / "teacher.zarr")["val"].block_count):
        record = {key: part_of((split / key).read_bytes()) for key in unit_keys("0", block)}
        commit_block(location(split), "0", block, record, None)
    assert call("store", "verify", "teacher.zarr").exit_code == 0
    result = call("store", "verify", "teacher.zarr", *AGAIN)
    assert result.exit_code == 1
    assert "val: embeddings of 8 images computed again" in result.output
    assert "failed" in result.output


UNUSABLE = [
    (("--teacher", "random/conv4-16"), "--teacher and --data go together"),
    (("--data", "data"), "--teacher and --data go together"),
    (("--teacher", "random/conv4-32", "--data", "data"), "The teacher has 32 features, 'teacher.zarr/train' has 16"),
    (("--teacher", "random/conv4-16", "--data", "nowhere"), "The dataset 'nowhere' does not exist"),
    (("--sample", "0"), "greater than or equal to 1"),
]


def test_what_cannot_be_embedded_again_is_said(call: Call, workplace: Path) -> None:
    assert workplace.is_dir()
    for words, sentence in UNUSABLE:
        result = call("store", "verify", "teacher.zarr", *words)
        assert result.exit_code == 2
        assert sentence in " ".join(result.output.split())


def test_a_sample_of_blocks_is_read(call: Call, workplace: Path) -> None:
    assert workplace.is_dir()
    assert json_of(call("store", "verify", "teacher.zarr", "--sample", "2", "--json"))["parts"] <= 10
