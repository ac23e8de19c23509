"""Patches of stores of anybody: damage, and what no store has, is refused and found by verify."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import xxhash

from compress_ssl.storage import open_store
from compress_ssl.storage.errors import StoreDamagedError, StoreUnsafeError
from compress_ssl.storage.tools.verify import verify_store
from tests.storage.conftest import BAD_ROW, values_of
from tests.storage.test_storage_safety import edit, edited, set_to

HOSTILE: list[tuple[str, Any]] = [
    *(("grid", value) for value in (0, 129, 2.0, "2", 10**30)),
    *(("components", value) for value in (0, 7, -1, None)),
    ("channels", 2**40),
    *(("views", value) for value in ([2, 0], [0, 0], [3], [-1], "02")),
    *(("explained_variance", value) for value in (1.5, float("nan"), "1")),
    *(("reconstruction_cosine", value) for value in (-2, None)),
]


def test_attribute_that_no_store_has_is_refused(patched: Path) -> None:
    for key, value in HOSTILE:
        refused = pytest.raises(
            StoreDamagedError, match=r"train/zarr\.json' (has a wrong patches|names patches of view)"
        )
        with edited(patched / "train/zarr.json", set_to("attributes", "patches", key)(value)), refused:
            open_store(patched)


def test_header_that_does_not_fit_the_attribute_is_refused(patched: Path) -> None:
    for key, value in (("grid", 3), ("components", 2), ("channels", 5)):
        refused = pytest.raises(StoreDamagedError, match=r"train/patch\w*' has shape .* is expected")
        with edited(patched / "train/zarr.json", set_to("attributes", "patches", key)(value)), refused:
            open_store(patched)
    pickled = [{"name": "numcodecs.pickle"}, {"name": "crc32c"}]
    for name in ("patches", "patch_scale", "patch_mean", "patch_basis"):
        refused = pytest.raises(StoreUnsafeError, match=rf"train/{name}/zarr\.json' has codecs .* not opened")
        with edited(patched / f"train/{name}/zarr.json", set_to("codecs")(pickled)), refused:
            open_store(patched)


def test_codes_that_claim_gigabytes_take_no_memory(patched: Path) -> None:
    """The header says 128 x 128 positions of 65,536 components: 5 GiB a block."""
    edit(patched / "train/zarr.json", set_to("attributes", "patches", "grid")(128))
    edit(patched / "train/zarr.json", set_to("attributes", "patches", "components")(65_536))
    edit(patched / "train/zarr.json", set_to("attributes", "patches", "channels")(65_536))
    sizes = {"position": 16_384, "component": 65_536, "channel": 65_536}
    for name in ("patches", "patch_scale", "patch_mean", "patch_basis"):
        header = patched / f"train/{name}/zarr.json"
        for number, dimension in enumerate(json.loads(header.read_text())["dimension_names"]):
            for keys in (("shape",), ("chunk_grid", "configuration", "chunk_shape")):
                if dimension in sizes:
                    edit(header, set_to(*keys, number)(sizes[dimension]))
    train = open_store(patched)["train"]
    for read in (lambda: train.patch_view(0), lambda: train.patch_block(2, 1), lambda: train.patch_basis):
        with pytest.raises(StoreUnsafeError, match=r"claims chunks of [\d,]+ bytes, but '.*' was committed with \d+"):
            read()


def recommit(store: Path, unit: str, key: str, change: Callable[[bytearray], object]) -> None:
    """Change the content of a part; its record and its checksum fit."""
    content = bytearray((store / key).read_bytes()[:-4])
    change(content)
    whole = bytes(content) + google_crc32c.value(bytes(content)).to_bytes(4, "little")
    (store / key).write_bytes(whole)
    part = {"size": len(whole), "xxh3_64": xxhash.xxh3_64_hexdigest(whole)}
    manifest = store / f"train/embeddings/commits/{unit}.json"
    block = "0" if unit == "patch-basis" else key.split("/")[4]
    edit(manifest, set_to(block, key.removeprefix("train/"))(part))


IMPOSSIBLE: dict[str, tuple[str, str, Callable[[bytearray], object], str]] = {
    "code of -128": (
        "patches-2",
        "train/patches/c/2/3/0/0",
        lambda content: content.__setitem__(13, 0x80),
        r"Row 16 of view 2 of split train of '.*' has patches with the code -128",
    ),
    "negative scale": (
        "patches-2",
        "train/patch_scale/c/2/3/0",
        lambda content: content.__setitem__(slice(0, 2), b"\0\xbc"),
        r"Row 15 of view 2 of split train of '.*' has patches with a scale that is not finite or below 0",
    ),
    "basis": (
        "patch-basis",
        "train/patch_basis/c/0/0",
        lambda content: content.__setitem__(slice(0, 4), np.float32(5).tobytes()),
        r"The patch basis of split train of '.*' has rows that are not orthonormal",
    ),
}


@pytest.mark.parametrize("fault", IMPOSSIBLE)
def test_values_that_no_store_has_are_refused_and_found_by_verify(patched: Path, fault: str) -> None:
    unit, key, change, sentence = IMPOSSIBLE[fault]
    recommit(patched, unit, key, change)
    train = open_store(patched)["train"]
    with pytest.raises(StoreUnsafeError, match=sentence):
        _ = train.patch_basis if unit == "patch-basis" else train.patch_view(2)
    (found,) = verify_store(open_store(patched)).damaged
    assert found.endswith("; get the store from whoever made it, or embed again")


def test_scale_of_a_bad_image_may_be_anything(patched: Path) -> None:
    recommit(
        patched, "patches-2", "train/patch_scale/c/2/1/0", lambda content: content.__setitem__(slice(16, 24), b"\0" * 8)
    )
    assert verify_store(open_store(patched)).ok
    assert (open_store(patched)["train"].patch_view(2)[1][BAD_ROW] == 0).all()


@pytest.mark.parametrize("name", ["patches/c/0/2/0/0", "patch_scale/c/0/2/0", "patch_mean/c/0", "patch_basis/c/0/0"])
def test_flipped_byte_is_named_by_verify_and_never_read(patched: Path, name: str) -> None:
    chunk = patched / "train" / name
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 0x40
    chunk.write_bytes(content)
    assert verify_store(open_store(patched)).damaged == [f"'{chunk}' has other content than was committed"]
    train = open_store(patched)["train"]
    with pytest.raises(StoreDamagedError, match=r"store verify' for all the damage"):
        _ = train.patch_basis if "c/0/2" not in name else train.patch_view(0)
    np.testing.assert_array_equal(train.view(1), values_of(1, slice(0, 22)).astype(np.float16))
