"""Faults of disks and of people in a store that was written well: what its reader and ``store verify`` say.

python -m tests.reliability.damage --count 100 [--seed 0]

Every fault befalls a random part of a random array or record, every other one of a store that is not finished, whose
records are files of their own. Then every row is read in every way there is, and compared with what was written.
"""

import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from compress_ssl.storage import PatchPlan, Samples, SplitPlan, Status, open_store
from compress_ssl.storage.schema import PATCH_ARRAYS, SAMPLE_ARRAYS
from compress_ssl.storage.writer import StoreWriter, create_store
from tests.reliability.options import parser
from tests.reliability.truth import Answers, Truth, damage_found, read_everything

ROWS, VIEWS, FEATURES, BLOCK_ROWS = 50, 3, 16, 8
UNFINISHED = (2, 4)
"""View and block from which on the unfinished store has none."""


def truth(seed: int) -> Truth:
    """Random numbers; every seventh image is bad."""
    generator = np.random.default_rng(seed)
    status = np.where(np.arange(ROWS) % 7 == 6, Status.BAD_IMAGE, Status.GOOD).astype(np.uint8)
    embeddings = generator.standard_normal((VIEWS, ROWS, FEATURES)).astype(np.float16)
    embeddings[:, status == Status.BAD_IMAGE] = np.nan
    codes = generator.integers(-127, 128, (2, ROWS, 4, 3)).astype(np.int8)  # of views 0 and 1
    codes[:, status == Status.BAD_IMAGE] = 0
    scale = generator.random((2, ROWS, 4)).astype(np.float16)
    scale[:, status == Status.BAD_IMAGE] = np.nan
    return {
        "train": {
            "embeddings": embeddings,
            "augmentation": generator.standard_normal((VIEWS, ROWS, 5)).astype(np.float32),
            "patches": codes,
            "patch_scale": scale,
            "sample_path": np.array([f"class/{name}.jpg" for name in generator.permutation(10**6)[:ROWS]]),
            "label": generator.integers(0, 9, ROWS).astype(np.int32),
            "image_size": generator.integers(1, 999, (ROWS, 2)).astype(np.int32),
            "content_hash": generator.integers(0, 2**63, ROWS).astype(np.uint64),
            "status": status,
        }
    }


def write(place: Path, arrays: Truth, *, whole: bool) -> None:
    train = arrays["train"]
    samples = {name: values for name, values in train.items() if name in SAMPLE_ARRAYS}
    samples |= {"sample_path": train["sample_path"].tolist(), "class_names": tuple("abcdefghi")}
    views = [{"policy": {"name": "none"}, "seed": None, "size": 8}] * VIEWS
    columns = tuple("abcde")
    basis = np.eye(3, 5, dtype=np.float32)
    patches = PatchPlan(
        grid=2, components=3, channels=5, views=(0, 1), explained_variance=1, fitted_on=1, reconstruction_cosine=1,
        mean=basis.sum(axis=0), basis=basis,
    )  # fmt: skip
    plan = SplitPlan(Samples(**samples), "train", views, columns, FEATURES, BLOCK_ROWS, patches)
    create_store(place, {}, {"train": plan})
    writer = StoreWriter(place)
    for block in range(writer.store["train"].block_count):
        rows = writer.store["train"].block_slice(block)
        for view in range(VIEWS):
            if whole or (view, block) < UNFINISHED:
                parts = (train[name][view, rows] for name in ("embeddings", "augmentation"))
                writer.write_block("train", block, view, *parts)
                if view in patches.views:
                    writer.write_patches("train", block, view, *(train[name][view, rows] for name in PATCH_ARRAYS))
    writer.finish()


def flipped(path: Path, draw: random.Random) -> bytes:
    """One bit of one byte."""
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(content)


def truncated(path: Path, draw: random.Random) -> bytes:
    return path.read_bytes()[: draw.randrange(path.stat().st_size)]


def exchanged(path: Path, draw: random.Random) -> bytes:
    """Another chunk of the same array, which is sound in itself."""
    chunks = next(parent for parent in path.parents if parent.name == "c")
    contents = {other.read_bytes() for other in chunks.rglob("*") if other.is_file()} - {path.read_bytes()}
    return draw.choice(sorted(contents))


def edited(path: Path, draw: random.Random) -> bytes:
    """One byte is another, so that the file does not say the same as before."""
    content = path.read_bytes()
    while True:
        at = draw.randrange(len(content))
        new = content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :]
        try:
            if json.loads(new) != json.loads(content):
                return new
        except ValueError:
            return new


def deleted(path: Path, draw: random.Random) -> None:
    """The file goes."""


Fault = Callable[[Path, random.Random], bytes | None]
CHUNKS, RECORDS, METADATA = "train/*/c/**/*", "train/embeddings/commits/**/*.json", "**/zarr.json"
FAULTS: dict[str, tuple[str, Fault]] = {
    "a flipped bit in a chunk": (CHUNKS, flipped),
    "a truncated chunk": (CHUNKS, truncated),
    "a deleted chunk": (CHUNKS, deleted),
    "a chunk in another's place": (CHUNKS, exchanged),
    "a deleted record": (RECORDS, deleted),
    "an edited record": (RECORDS, edited),
    "an edited zarr.json": (METADATA, edited),
    "a deleted zarr.json": (METADATA, deleted),
}


def befallen(place: Path, arrays: Truth, pattern: str, fault: Fault, draw: random.Random) -> tuple[Answers, bool]:
    """Do harm to one file, read everything, make the file good again; what was read, and whether ``verify`` noticed."""
    before = damage_found(place)
    victim = draw.choice(sorted(path for path in place.glob(pattern) if path.is_file()))
    content, harm = victim.read_bytes(), fault(victim, draw)
    if harm is None:
        victim.unlink()
    else:
        victim.write_bytes(harm)
    try:
        answers, found = read_everything(place, arrays), damage_found(place) != before
    finally:
        victim.write_bytes(content)
    if answers.wrong or not found:
        print(f"{victim.relative_to(place)}: {answers}, {'found' if found else 'NOT FOUND'}", flush=True)
        print(*sorted(set(_lines(content)) ^ set(_lines(harm or b""))), sep="\n   ", flush=True)
    return answers, found


def _lines(content: bytes) -> list[str]:
    return content.decode(errors="replace").splitlines()


def main(count: int, seed: int) -> dict[str, tuple[Answers, int]]:
    """Print a line a fault; give back what was read after all of a kind, and how many were found."""
    results: dict[str, tuple[Answers, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        arrays = truth(seed)
        stores = [Path(folder) / name for name in ("finished.zarr", "unfinished.zarr")]
        for place in stores:
            writing = Path(folder) / "new.zarr"
            write(writing, arrays, whole=place.stem == "finished")
            shutil.copytree(writing, place, copy_function=shutil.copyfile)  # not read-only
            shutil.rmtree(writing)
            assert not read_everything(place, arrays).wrong
        assert open_store(stores[0])["train"].complete_views == [0, 1, 2]
        assert open_store(stores[1])["train"].complete_views == [0, 1]
        for name, (pattern, fault) in FAULTS.items():
            draw, total, noticed, with_error = random.Random(f"{seed} {name}"), Answers(), 0, Counter[str]()
            for number in range(count):
                answers, found = befallen(stores[number % 2], arrays, pattern, fault, draw)
                total.add(answers)
                noticed += found
                with_error.update(answers.refused.keys() - {"StoreIncompleteError"} or ["none, or not complete"])
            results[name] = (total, noticed)
            print(
                f"{name}: {count} times, verify found {noticed}; rows read right {total.right:,}, wrong {total.wrong}; "
                f"errors in reading {dict(with_error)}",
                flush=True,
            )
    return results


if __name__ == "__main__":
    main(**vars(parser(__doc__, count=100).parse_args()))
