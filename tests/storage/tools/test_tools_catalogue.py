"""What is said of stores: descriptions, lists of folders of them, cards."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress_ssl.storage import SplitPlan, describe, open_store
from compress_ssl.storage.errors import StoreNotFoundError
from compress_ssl.storage.places.place import lease_holder, location, writer_lease
from compress_ssl.storage.places.remote import RemotePath
from compress_ssl.storage.tools.card import store_card
from compress_ssl.storage.tools.catalogue import catalogue
from compress_ssl.storage.writer import create_store


def test_stored_bytes_are_those_of_the_files(complete: Path) -> None:
    chunks = [path for path in complete.rglob("c/**/*") if path.is_file()]
    found = describe(open_store(complete))
    assert found["stored_bytes"] == sum(path.stat().st_size for path in chunks)
    assert found["objects"] == len(chunks)
    assert found["bytes"] == 2 * 4 * (3 * 22 + 6)
    assert (found["complete"], found["writer"]) == (True, None)


def test_an_unfinished_store_counts_what_is_committed(empty: Path) -> None:
    found = describe(open_store(empty))
    assert not found["complete"]
    assert found["objects"] == 5 * 5  # five arrays of the samples, five blocks
    assert found["splits"]["train"]["blocks_committed"] == [0, 0, 0]


def test_the_process_that_writes_is_named_while_it_does(complete: Path) -> None:
    with writer_lease(complete):
        holder = describe(open_store(complete))["writer"]
        assert holder["process"] == os.getpid()
    assert lease_holder(complete) is None


def copied(store: Path, target: Path) -> None:
    """Copy a store, to be changed: a finished one is read-only."""
    shutil.copytree(store, target, copy_function=shutil.copyfile)


@pytest.fixture
def shelf(made: Path, tmp_path: Path) -> Path:
    """A folder of stores, of things that are none, and of damaged stores."""
    root = tmp_path / "shelf"
    complete = made / "complete.zarr"
    copied(complete, root / "lab/a.zarr")
    copied(made / "empty.zarr", root / "lab/half.zarr")
    for name in ("no header", "cut", "no splits", "wild"):
        copied(complete, root / f"damaged/{name}.zarr")
    (root / "damaged/no header.zarr/zarr.json").unlink()
    (root / "damaged/cut.zarr/train/embeddings/zarr.json").write_text('{"shape": [')
    header = root / "damaged/no splits.zarr/zarr.json"
    header.write_text(header.read_text().replace('"splits"', '"parts"'))
    records = root / "damaged/wild.zarr/train/embeddings/commits/1.json"
    records.write_text("[]")
    copied(complete, root / "b.zarr.creating")
    (root / "pictures").mkdir()
    (root / "pictures/zarr.json").write_text("{}")
    (root / "loop").symlink_to(root)
    return root


def test_every_store_below_is_listed_and_nothing_ends_the_list(shelf: Path) -> None:
    entries = {str(Path(entry.path).relative_to(shelf)): entry for entry in catalogue(shelf)}
    assert list(entries) == [
        *(f"damaged/{name}.zarr" for name in ("cut", "no header", "no splits", "wild")),
        *("lab/a.zarr", "lab/half.zarr"),
    ]
    for name, entry in entries.items():
        assert (entry.error is not None) == name.startswith("damaged"), entry
        assert entry.error is None or entry.path in entry.error
    assert entries["lab/a.zarr"].found["complete"]
    assert entries["lab/a.zarr"].found["samples"] == 28
    assert not entries["lab/half.zarr"].found["complete"]


def test_a_list_reads_no_chunk(shelf: Path) -> None:
    for chunk in shelf.rglob("lab/a.zarr/*/*/c/**/*"):
        if chunk.is_file():
            chunk.write_bytes(b"")
    assert next(entry for entry in catalogue(shelf) if entry.path.endswith("a.zarr")).found["complete"]


def test_a_store_is_a_list_of_one(complete: Path) -> None:
    assert [entry.path for entry in catalogue(complete)] == [str(complete)]


def test_what_cannot_be_listed_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="is not a folder"):
        list(catalogue(tmp_path / "nowhere"))
    with pytest.raises(StoreNotFoundError, match="cannot be listed: a web server"):
        list(catalogue(location("https://example.org/stores")))


def head_of(card: str) -> dict[str, Any]:
    _, head, _ = card.split("---\n", 2)
    parsed: dict[str, Any] = yaml.safe_load(head)
    return parsed


def test_the_head_of_a_card_is_that_of_a_data_set(complete: Path) -> None:
    head = head_of(store_card("s.zarr", describe(open_store(complete))))
    assert head["pretty_name"] == "Embeddings of numbers by random"
    assert head["size_categories"] == ["n<1K"]
    assert head["task_categories"] == ["image-feature-extraction"]
    assert "license" not in head


@pytest.mark.parametrize(
    ("count", "category"),
    [
        (1, "n<1K"),
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (1_281_167, "1M<n<10M"),
        (10**9, "1B<n<10B"),
        (10**15, "10B<n<100B"),
    ],
)
def test_a_card_has_hugging_faces_category_of_sizes(complete: Path, count: int, category: str) -> None:
    found = describe(open_store(complete))
    found["splits"]["val"]["samples"] = 0
    found["splits"]["train"]["samples"] = count
    assert head_of(store_card("s.zarr", found))["size_categories"] == [category]


def test_the_python_of_a_card_runs(complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = store_card(complete.name, describe(open_store(complete)))
    monkeypatch.chdir(complete.parent)
    blocks = [part.split("```")[0] for part in card.split("```python\n")[1:]]
    assert len(blocks) == 2
    for block in blocks:
        assert len(block.splitlines()) <= 7
        names: dict[str, Any] = {}
        exec(block, names)  # noqa: S102  it is what a reader would do
        assert "train" in names


def test_a_card_names_teacher_views_and_citation(complete: Path) -> None:
    card = store_card("s.zarr", describe(open_store(complete)), ["Somebody, Something"])
    assert "| name | random |" in card
    assert "| train | 2 | some | strength 0.5 | 8 |" in card
    assert "- Somebody, Something\n- Koohpayegani" in card
    assert "not complete" not in card


def test_views_that_are_alike_share_a_row(complete: Path) -> None:
    found = describe(open_store(complete))
    for view in found["splits"]["train"]["views"]:
        view["seed"] = 0
    assert "| train | 0 to 2 | some |" in store_card("s.zarr", found)


def test_the_stores_of_a_bucket_are_listed(
    bucket: str, plan: Callable[..., SplitPlan], fill: Callable[[Any], None]
) -> None:
    for name in ("lab/a.zarr", "b.zarr"):
        create_store(location(f"{bucket}/{name}"), {"teacher": {"name": "random"}}, {"train": plan()})
    fill(location(f"{bucket}/b.zarr"))
    damaged = location(f"{bucket}/lab/a.zarr/train/label/zarr.json")
    assert isinstance(damaged, RemotePath)
    damaged.write_bytes(b"{")
    good, bad = catalogue(location(bucket))
    assert (good.path, good.found["complete"], good.error) == (f"{bucket}/b.zarr", True, None)
    assert bad.error is not None
    assert f"'{bucket}/lab/a.zarr/train/label/zarr.json' is not valid JSON" in bad.error


def test_a_remote_store_says_who_writes_it(bucket: str, plan: Callable[..., SplitPlan]) -> None:
    place = location(f"{bucket}/s.zarr")
    create_store(place, {}, {"train": plan()})
    assert describe(open_store(place))["writer"] is None
    with writer_lease(place):
        assert describe(open_store(place))["writer"]["process"] == os.getpid()
