"""Damage to committed parts: reading refuses it, and verifying names every part of it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash

from compress_ssl.storage import SplitPlan, open_store
from compress_ssl.storage.errors import StoreDamagedError
from compress_ssl.storage.tools.verify import verify_store
from compress_ssl.storage.writer import create_store

CHUNK = "train/embeddings/c/1/2/0"
MANIFEST = "train/embeddings/commits/1.json"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "flipped": flip,
    "zeroed": lambda path: path.write_bytes(bytes(len(path.read_bytes()))),
    "of another block": lambda path: path.write_bytes((path.parents[2] / "0/1/0").read_bytes()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_chunk_is_never_read(complete: Path, damage: str) -> None:
    DAMAGE[damage](complete / CHUNK)
    sentence = r"'.*store\.zarr/train/embeddings.*store verify' for all the damage"
    with pytest.raises(StoreDamagedError, match=sentence):
        open_store(complete)["train"].view(1)
    with pytest.raises(StoreDamagedError, match=sentence):
        open_store(complete)["train"].block(1, 2)


@pytest.mark.parametrize("damage", DAMAGE)
def test_chunk_that_is_damaged_while_a_view_is_read_is_never_read(
    tmp_path: Path, plan: Callable[..., SplitPlan], fill: Callable[[Path], None], damage: str
) -> None:
    """The first run of 16 blocks is read before."""
    writing, store = tmp_path / "writing.zarr", tmp_path / "store.zarr"
    create_store(writing, {}, {"train": plan(41, 1, block_rows=2)})
    fill(writing)
    shutil.copytree(writing, store, copy_function=shutil.copyfile)  # not read-only
    runs = open_store(store)["train"].blocks(0)
    next(runs)
    DAMAGE[damage](store / "train/embeddings/c/0/18/0")
    with pytest.raises(StoreDamagedError, match=r"'.*store\.zarr/train/embeddings/c/0/18/0' "):
        next(runs)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_chunk_is_found_by_verify_and_named(complete: Path, damage: str) -> None:
    DAMAGE[damage](complete / CHUNK)
    result = verify_store(open_store(complete))
    assert not result.ok
    assert [sentence.split("'")[1] for sentence in result.damaged] == [str(complete / CHUNK)]


@pytest.mark.parametrize("name", ["sample_path", "label", "image_size", "content_hash", "status"])
@pytest.mark.parametrize("damage", ["missing", "flipped"])
def test_damaged_samples_are_never_read(complete: Path, name: str, damage: str) -> None:
    DAMAGE[damage](complete / "train" / name / "c" / ("1/0" if name == "image_size" else "1"))
    split = open_store(complete)["train"]
    with pytest.raises(StoreDamagedError, match=rf"train/{name}"):
        _ = split.samples


def test_other_views_of_a_damaged_store_are_still_read(complete: Path) -> None:
    (complete / CHUNK).unlink()
    assert open_store(complete)["train"].view(2).shape == (22, 4)


def test_sound_store_verifies(complete: Path) -> None:
    result = verify_store(open_store(complete))
    assert result.ok
    assert result.damaged == result.missing == []


def test_verify_reads_every_part(complete: Path) -> None:
    chunks = [path for path in complete.rglob("*") if "c" in path.parts and path.is_file()]
    result = verify_store(open_store(complete))
    assert result.parts == len(chunks)
    assert result.bytes == sum(path.stat().st_size for path in chunks)


def test_all_damage_is_listed_at_once(complete: Path) -> None:
    damaged = [CHUNK, "train/augmentation/c/0/0/0", "train/status/c/4", "val/embeddings/c/0/1/0"]
    for name in damaged:
        flip(complete / name)
    found = {sentence.split("'")[1] for sentence in verify_store(open_store(complete)).damaged}
    assert found == {str(complete / name) for name in damaged}


def test_content_that_passes_zarrs_checksum_is_still_compared_with_the_record(complete: Path) -> None:
    other = (complete / "train/embeddings/c/0/0/0").read_bytes()
    (complete / CHUNK).write_bytes(other)
    assert verify_store(open_store(complete)).damaged == [f"'{complete / CHUNK}' has other content than was committed"]


def test_unfinished_view_is_missing_not_damaged(complete: Path) -> None:
    (complete / MANIFEST).unlink()
    result = verify_store(open_store(complete))
    assert not result.ok
    assert result.damaged == []
    assert result.missing == ["train, view 1: 0 of 5 blocks are committed"]


def test_missing_records_of_the_samples_are_an_error(complete: Path) -> None:
    (complete / "train/embeddings/commits/samples.json").unlink()
    assert verify_store(open_store(complete)).missing == ["train, the samples: 0 of 5 blocks are committed"]
    with pytest.raises(StoreDamagedError, match=r"The commit records of the samples of '.*train' are missing"):
        _ = open_store(complete)["train"].samples


BROKEN_MANIFESTS = {
    "cut short": lambda text: text[:100],
    "empty": lambda text: "",
    "a list": lambda text: "[]",
    "a block without parts": lambda text: '{"0": {}}',
    "parts of another block": lambda text: text.replace("c/1/2/0", "c/1/3/0"),
    "a part without its size": lambda text: text.replace('"size"', '"length"'),
    "a block without number": lambda text: text.replace('"0": ', '"zero": '),
}


@pytest.mark.parametrize("fault", BROKEN_MANIFESTS)
def test_broken_manifest_is_named(complete: Path, fault: str) -> None:
    manifest = complete / MANIFEST
    manifest.write_text(BROKEN_MANIFESTS[fault](manifest.read_text()))
    sentence = r"^The commit records of '[^\n]*train' \(unit 1\) cannot be read \([^\n]*embed again with --overwrite\.$"
    with pytest.raises(StoreDamagedError, match=sentence):
        open_store(complete)["train"].view(1)


def test_broken_manifest_does_not_end_the_verification(complete: Path) -> None:
    (complete / MANIFEST).write_text("{")
    flip(complete / "train/embeddings/c/2/2/0")
    damaged = verify_store(open_store(complete)).damaged
    assert len(damaged) == 2
    assert "(unit 1) cannot be read" in damaged[0]
    assert "c/2/2/0' has other content" in damaged[1]


def test_records_hold_sizes_and_xxh3_of_the_bytes(complete: Path) -> None:
    content = (complete / CHUNK).read_bytes()
    record = (
        f'"embeddings/c/1/2/0": {{\n   "size": {len(content)},\n   "xxh3_64": "{xxhash.xxh3_64_hexdigest(content)}"'
    )
    assert record in (complete / MANIFEST).read_text()


def test_a_sample_reads_so_many_blocks(complete: Path) -> None:
    result = verify_store(open_store(complete), sample=3, seed=0)
    assert result.ok
    assert 3 * 2 <= result.parts <= 3 * 5  # two parts of a view's block, five of the samples'


def test_samples_come_upon_a_damaged_block_in_proportion(complete: Path) -> None:
    """3 splits' views and 2 units of samples make 27 blocks, of which one is damaged."""
    flip(complete / CHUNK)
    store = open_store(complete)
    found = sum(not verify_store(store, sample=9, seed=seed).ok for seed in range(60))
    assert 9 <= found <= 32  # 20 expected, four deviations of 3.65 at most


def test_a_sample_of_more_than_all_is_all(complete: Path) -> None:
    assert verify_store(open_store(complete), sample=10**6) == verify_store(open_store(complete))


def test_a_sample_tells_of_what_was_never_committed(complete: Path) -> None:
    (complete / MANIFEST).unlink()
    assert verify_store(open_store(complete), sample=1).missing == ["train, view 1: 0 of 5 blocks are committed"]
