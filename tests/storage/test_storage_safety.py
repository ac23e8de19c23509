"""Malicious stores: each test edits the bytes of a real one, which is refused before it gets code, memory or files."""

import contextlib
import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
import xxhash

from compress_ssl.storage import open_store
from compress_ssl.storage.errors import StoreDamagedError, StoreError, StoreUnsafeError
from compress_ssl.storage.places.names import check_inside, check_split_names
from compress_ssl.storage.tools.verify import verify_store
from compress_ssl.storage.writer import create_store

ROWS = 10**14
SIDE = 2**40


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@contextlib.contextmanager
def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> Iterator[None]:
    """Metadata that is changed while the block runs."""
    content = path.read_bytes()
    edit(path, change)
    yield
    path.write_bytes(content)


def set_to(*keys: str | int) -> Callable[[Any], Callable[[dict[str, Any]], None]]:
    """A change that sets what is found by these keys."""

    def to(value: Any) -> Callable[[dict[str, Any]], None]:
        def change(content: Any) -> None:
            for key in keys[:-1]:
                content = content[key]
            content[keys[-1]] = value

        return change

    return to


def with_rows(store: Path, rows: int) -> None:
    """Let every header say that the split has so many rows."""
    edit(store / "train/zarr.json", set_to("attributes", "samples")(rows))
    for name in ("embeddings", "augmentation"):
        edit(store / "train" / name / "zarr.json", set_to("shape", 1)(rows))
    for name in ("sample_path", "label", "image_size", "content_hash", "status"):
        edit(store / "train" / name / "zarr.json", set_to("shape", 0)(rows))


def with_block_rows(store: Path, rows: int) -> None:
    """Let every header say that a block has so many rows."""
    edit(store / "train/zarr.json", set_to("attributes", "block_rows")(rows))
    for name in ("embeddings", "augmentation"):
        edit(store / "train" / name / "zarr.json", set_to("chunk_grid", "configuration", "chunk_shape", 1)(rows))
    for name in ("sample_path", "label", "image_size", "content_hash", "status"):
        edit(store / "train" / name / "zarr.json", set_to("chunk_grid", "configuration", "chunk_shape", 0)(rows))


@pytest.fixture
def memory() -> Callable[[], int]:
    """Most bytes that this process ever held, above what it held when the test began."""
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return lambda: 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begun)


CODECS = {
    "pickle": [{"name": "pickle", "configuration": {"protocol": 5}}],
    "numcodecs.pickle": [{"name": "numcodecs.pickle"}, {"name": "crc32c"}],
    "unknown": [{"name": "bytes"}, {"name": "someones"}],
    "compressed": [{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 5}}, {"name": "crc32c"}],
    "sharded": [{"name": "sharding_indexed", "configuration": {}}],
    "without checksum": [{"name": "bytes", "configuration": {"endian": "little"}}],
    "big-endian": [{"name": "bytes", "configuration": {"endian": "big"}}, {"name": "crc32c"}],
    "none": [],
}


@pytest.mark.parametrize("array", ["embeddings", "sample_path"])
def test_store_with_other_codecs_than_ours_is_not_opened(complete: Path, array: str) -> None:
    refused = pytest.raises(StoreUnsafeError, match=rf"train/{array}/zarr\.json' has (codecs|byte order) .* not opened")
    for codecs in CODECS.values():
        with edited(complete / "train" / array / "zarr.json", set_to("codecs")(codecs)), refused:
            open_store(complete)


LAYOUTS = {
    "an object type": (("data_type",), "object", "type 'object'"),
    "a type of numpy's own": (("data_type",), {"name": "numpy.void", "configuration": {}}, "type"),
    "zarr 2": (("zarr_format",), 2, "format 2"),
    "a group": (("node_type",), "group", "node_type 'group'"),
    "another grid": (("chunk_grid", "name"), "rectangular", "chunk grid 'rectangular'"),
    "other chunk names": (("chunk_key_encoding",), {"name": "v2"}, "names of chunks"),
    "a transformer": (("storage_transformers",), [{"name": "someones"}], "storage transformers"),
    "negative rows": (("shape",), [-5], "sizes"),
    "rows that are no number": (("shape",), ["22"], "sizes"),
    "too many rows": (("shape",), [2**60], "sizes"),
    "a million billion rows": (("shape",), [10**15], "sizes"),
    "half a row": (("shape",), [21.5], "sizes"),
    "too many dimensions": (("shape",), [22, 10**6, 10**6], "sizes"),
    "empty chunks": (("chunk_grid", "configuration", "chunk_shape"), [0], "sizes"),
}


def test_array_of_another_layout_is_not_opened(complete: Path) -> None:
    for keys, value, found in LAYOUTS.values():
        refused = pytest.raises(StoreError, match=rf"train/label/zarr\.json' has {found}")
        with edited(complete / "train/label/zarr.json", set_to(*keys)(value)), refused:
            open_store(complete)


def test_what_was_consolidated_in_a_split_is_not_looked_at(complete: Path) -> None:
    """A codec of another's there would be looked up before the array itself is read."""
    array = json.loads((complete / "train/label/zarr.json").read_text())
    array["codecs"] = CODECS["unknown"]
    inside = {"kind": "inline", "must_understand": False, "metadata": {"label": array}}
    edit(complete / "train/zarr.json", set_to("consolidated_metadata")(inside))
    assert open_store(complete)["train"].samples.label[1] == 1


def test_a_hundred_thousand_billion_rows_take_no_memory(complete: Path, memory: Callable[[], int]) -> None:
    with_rows(complete, ROWS)
    store = open_store(complete)
    for read in (lambda: store["train"].samples, lambda: store["train"].view(1), lambda: store["train"].rows(0, [3])):
        with pytest.raises(StoreError, match=r"commit records of the samples|is not complete"):
            read()
    assert verify_store(store).missing
    assert store["train"].complete_views == []
    assert memory() < 2**28


def test_chunks_of_a_trillion_rows_take_no_memory(complete: Path, memory: Callable[[], int]) -> None:
    with_block_rows(complete, SIDE)
    with_rows(complete, SIDE)
    for unit in ("samples", "0", "1", "2"):  # one block is all
        edit(
            complete / f"train/embeddings/commits/{unit}.json", lambda blocks: [blocks.pop(str(n)) for n in range(1, 5)]
        )
    split = open_store(complete)["train"]
    for read in (lambda: split.samples, lambda: split.view(1)):
        with pytest.raises(StoreUnsafeError, match=r"claims chunks of [\d,]+ bytes, but '.*' was committed with \d+"):
            read()
    assert memory() < 2**28


def test_a_committed_size_that_the_file_has_not_is_not_believed(complete: Path, memory: Callable[[], int]) -> None:
    """The records can be made up as the headers can; the file is what it is."""
    with_block_rows(complete, SIDE)
    with_rows(complete, SIDE)
    edit(
        complete / "train/embeddings/commits/1.json", lambda blocks: [blocks.pop(str(number)) for number in range(1, 5)]
    )
    for name, size in (("embeddings", 2 * 4 * SIDE + 4), ("augmentation", 4 * 2 * SIDE + 4)):
        edit(complete / "train/embeddings/commits/1.json", set_to("0", f"{name}/c/1/0/0", "size")(size))
    with pytest.raises(StoreDamagedError, match=r"has 44 bytes, but 8796093022212 bytes were committed"):
        open_store(complete)["train"].view(1)
    assert memory() < 2**28


def test_texts_that_claim_to_be_two_billion_take_no_memory(complete: Path, memory: Callable[[], int]) -> None:
    chunk = complete / "train/sample_path/c/1"
    content = (2**31 - 1).to_bytes(4, "little") + chunk.read_bytes()[4:-4]
    content += google_crc32c.value(content).to_bytes(4, "little")
    chunk.write_bytes(content)
    part = {"size": len(content), "xxh3_64": xxhash.xxh3_64_hexdigest(content)}
    edit(complete / "train/embeddings/commits/samples.json", set_to("1", "sample_path/c/1")(part))
    with pytest.raises(StoreUnsafeError, match=r"sample_path/c/1' claims to hold 2,147,483,647 texts instead of 5"):
        _ = open_store(complete)["train"].samples
    assert memory() < 2**28


ATTRIBUTES = {
    "rows of a block": (("block_rows",), (0, -3, 2.5, True, "5", None, [5], 10**4000), "block_rows"),
    "size of a view": (("views", 2, "size"), (0, -1, 2**20, 10**15, 1.5, "224", None, [8]), r"views\.2\.size"),
    "views": (("views",), ("abc", 5, None, [5], [["a"]], []), "views"),
    "samples": (("samples",), (-1, 2.5, 10**40, "22", None), "samples"),
    "folder": (("folder",), (5, None, ["a"]), "folder"),
    "class names": (("class_names",), ("ab", [1, 2], {"a": "b"}, None), "class_names"),
    "room": (("room",), (5, {"views": "many"}), "room"),
    "seed": (("views", 1, "seed"), ("one", [1], 0.5), r"views\.1\.seed"),
    "policy": (
        ("views", 0, "policy"),
        ("some", None, {"name": 5}, {"name": "a", "resize": 10**9}),
        r"views\.0\.policy",
    ),
}


ROOT_ATTRIBUTES: list[tuple[tuple[str, ...], Any]] = [
    (("splits",), "train"),
    (("teacher",), "a"),
    (("teacher",), None),
    (("teacher", "name"), {"a": 1}),
    (("teacher", "feature_dim"), 1e999),
    (("teacher", "mean"), [float("nan")]),
    (("data_set",), ["a"]),
    (("data_set", "images"), "22"),
    (("data_set", "fingerprint"), "a"),
    (("rendering",), 5),
    (("computed_with",), {"versions": ["1"]}),
    (("canaries",), {"train": 5}),
    (("growing",), {"train": {}}),
]


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_attribute_that_is_no_number_or_table_is_refused(complete: Path, attribute: str) -> None:
    keys, values, reason = ATTRIBUTES[attribute]
    refused = pytest.raises(StoreDamagedError, match=rf"train/zarr\.json' has a wrong {reason}.*embed again\.$")
    for value in values:
        with edited(complete / "train/zarr.json", set_to("attributes", *keys)(value)), refused:
            open_store(complete)


def test_attribute_of_the_root_that_is_of_another_type_is_refused(complete: Path) -> None:
    for keys, value in ROOT_ATTRIBUTES:
        refused = pytest.raises(StoreDamagedError, match=rf"store\.zarr/zarr\.json' (has a wrong|lacks) .*{keys[0]}")
        with edited(complete / "zarr.json", set_to("attributes", *keys)(value)), refused:
            open_store(complete)


def test_attribute_that_is_missing_is_an_error_of_what_needs_it(complete: Path) -> None:
    attributes = open_store(complete).attributes
    for table in (attributes, attributes["teacher"], open_store(complete)["train"].views[0]):
        with pytest.raises(StoreDamagedError, match=r"zarr\.json' lacks the attribute 'precision'; .*embed again\.$"):
            table["precision"]
    assert attributes.get("precision") is None
    assert json.loads(json.dumps(attributes)) == attributes


def test_brackets_without_end_are_an_error(complete: Path) -> None:
    (complete / "train/label/zarr.json").write_text("[" * 200_000)
    with pytest.raises(StoreDamagedError, match=r"train/label/zarr\.json' is not valid JSON \(recursion limit"):
        open_store(complete)


OUTSIDE = [
    "../other",
    "/etc/passwd",
    "a/../../b.jpg",
    "C:\\windows",
    "C:/windows",
    "\\\\server\\share",
    "..",
    "a\0b",
    "a/..",
]
INSIDE = ["a..b.jpg", "...", "a/..b/c.jpg", "a b/ä.jpg", "a:b.jpg", "c\\d.jpg", "", "a\nb/c.jpg"]


def test_path_that_leaves_the_data_set_is_refused(tmp_path: Path, plan: Callable[..., Any]) -> None:
    paths = [f"{number}.jpg" for number in range(21)]
    plans = {f"train{number}": plan(paths=[*paths, name]) for number, name in enumerate(OUTSIDE)}
    create_store(tmp_path / "s.zarr", {}, plans)
    for split in open_store(tmp_path / "s.zarr").splits:
        with pytest.raises(StoreUnsafeError, match=rf"{split.name}/sample_path' names .* leads out of the dataset"):
            _ = split.samples


def test_odd_names_that_stay_inside_are_let_pass() -> None:
    check_inside("it", INSIDE)


def test_folder_that_leaves_the_data_set_is_refused(complete: Path) -> None:
    refused = pytest.raises(StoreUnsafeError, match=r"val/zarr\.json' names .* leads out of the dataset")
    for name in OUTSIDE:
        with edited(complete / "val/zarr.json", set_to("attributes", "folder")(name)), refused:
            open_store(complete)


def test_split_that_is_no_folder_of_the_store_is_refused(complete: Path) -> None:
    refused = pytest.raises(StoreUnsafeError, match=r"zarr\.json' names a split .* no folder of the store")
    for name in [*OUTSIDE, "a/b", "a\\b", ".", "", 5, None]:
        with edited(complete / "zarr.json", set_to("attributes", "splits")([name])), refused:
            open_store(complete)


def test_usual_split_names_are_let_pass() -> None:
    check_split_names(Path("s"), ["train", "val", "2007_train", "v1.2", "a..b"])


def test_no_file_outside_the_store_is_asked_for(complete: Path, tmp_path: Path) -> None:
    """A store beside is whole, and all the same not reached by a name."""
    (complete / "train").rename(tmp_path / "train")
    edit(complete / "zarr.json", set_to("attributes", "splits")(["../train", "val"]))
    with pytest.raises(StoreUnsafeError, match="no folder of the store"):
        open_store(complete)


@pytest.mark.parametrize("size", [-1, 2**63, 10**400])
@pytest.mark.parametrize("pieces", [{}, {"pieces": ""}])
def test_a_recorded_size_that_no_file_can_have_is_refused(complete: Path, size: int, pieces: dict[str, str]) -> None:
    part = {"size": size, "xxh3_64": "0" * 16, **pieces}
    edit(complete / "train/embeddings/commits/1.json", set_to("0", "embeddings/c/1/0/0")(part))
    with pytest.raises(StoreDamagedError, match=r"The commit records of .* cannot be read"):
        open_store(complete)["train"].view(1)
