"""Stores at URLs: the objects of one on a disk, never half a store, and every failure one sentence without a secret."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress_ssl.storage import RemotePath, SplitPlan, StoreError, location, open_store
from compress_ssl.storage.errors import StoreDamagedError, StoreExistsError, StoreNotFoundError, StoreUnreachableError
from compress_ssl.storage.places.urls import without_secrets
from compress_ssl.storage.publish import check_place, is_there
from compress_ssl.storage.tools.verify import verify_store
from compress_ssl.storage.writer import StoreWriter, create_store, exclusive_writer
from tests.processes import free_port
from tests.servers import SECRET, Server
from tests.storage.conftest import ATTRIBUTES as MADE_WITH

Fill = Callable[[Any], None]
ATTRIBUTES = {"teacher": {"name": "random", "feature_dim": 4}}


def objects(store: RemotePath) -> dict[str, bytes]:
    """Every object below a place, by its key relative to it."""
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.files()}


@pytest.mark.parametrize("text", ["teacher.zarr", "/a/b", "a:b", "swav:/weights/x.pth", "", "."])
def test_what_is_no_url_is_a_path(text: str) -> None:
    assert location(text) == Path(text)


@pytest.mark.parametrize(
    ("text", "root", "key"),
    [
        ("s3://bucket/a/b.zarr", "s3://bucket", "a/b.zarr"),
        ("S3://bucket/a//b.zarr/", "s3://bucket", "a/b.zarr"),
        ("gs://bucket", "gs://bucket", ""),
        ("https://lab.example:8443/x y.zarr", "https://lab.example:8443", "x y.zarr"),
    ],
)
def test_url_is_taken_apart_and_put_together_again(text: str, root: str, key: str) -> None:
    place = location(text)
    assert place == RemotePath(root, key)
    assert location(str(place)) == place


@pytest.mark.parametrize("text", ["ftp://host/x", "s3:/bucket/x", "https:/host/x", "s3://", "s3:///x", "s3://b/../x"])
def test_url_that_is_none_of_a_store_is_refused(text: str) -> None:
    with pytest.raises(StoreError, match=r"^'.*' (is no place for a store|names no bucket)"):
        location(text)


@pytest.mark.parametrize(
    "text",
    [
        f"https://me:{SECRET}@host/x.zarr",
        f"https://host/x.zarr?X-Amz-Signature={SECRET}",
        f"s3://{SECRET}@bucket/x.zarr",
        f"https://host/x.zarr#{SECRET}",
        f"ftp://me:{SECRET}@host/x",
    ],
)
def test_secret_in_a_url_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(StoreError, match=r"x\.zarr|ftp://host/x") as raised:
        location(text)
    assert SECRET not in str(raised.value)


def test_text_of_an_error_loses_its_secrets() -> None:
    text = f"GET https://a:{SECRET}@h/x?sig={SECRET} and http://{SECRET}@i/y"
    assert without_secrets(text) == "GET https://h/x and http://i/y"


@pytest.mark.parametrize("pattern", ["*", "*.json", "*/b", "*/*", "a/*.json", "a/1.json", "nothing", "a*/b/*"])
def test_objects_are_found_by_patterns_as_files_are(tmp_path: Path, bucket: str, pattern: str) -> None:
    place = location(f"{bucket}/tree")
    assert isinstance(place, RemotePath)
    for key in ("top.json", "a/1.json", "a/2.txt", "a/b/c.json", "ab/b/d", "c/e"):
        for root in (tmp_path / "tree", place):
            if isinstance(root, Path):
                (root / key).parent.mkdir(parents=True, exist_ok=True)
            (root / key).write_bytes(key.encode())
    expected = sorted(path.relative_to(tmp_path / "tree").as_posix() for path in (tmp_path / "tree").glob(pattern))
    assert sorted(path.relative_to(place).as_posix() for path in place.glob(pattern)) == expected


def test_store_on_s3_has_the_objects_of_one_on_a_disk(
    made: Path, remote: RemotePath, plan: Callable[..., SplitPlan], fill: Fill, files: Callable[..., Any]
) -> None:
    create_store(remote, MADE_WITH, {"train": plan(), "val": plan(6, 1)})
    fill(remote)
    assert objects(remote) == files(made / "complete.zarr")
    assert [path.name for path in remote.parent.iterdir()] == ["store.zarr"]


def test_store_on_s3_is_read_and_verified(finished: RemotePath, values: Callable[..., np.ndarray[Any, Any]]) -> None:
    store = open_store(str(finished))
    np.testing.assert_array_equal(store["train"].view(2), values(2, slice(0, 22)))
    np.testing.assert_array_equal(store["train"].rows(1, [20, 3]), values(1, slice(0, 22))[[20, 3]])
    assert store["val"].samples.sample_path[5] == "b/05.jpg"
    assert verify_store(store).ok


def test_store_that_is_half_written_goes_on(
    remote: RemotePath, plan: Callable[..., SplitPlan], fill: Fill, values: Any, parameters: Any
) -> None:
    create_store(remote, ATTRIBUTES, {"train": plan()})
    rows = slice(5, 10)
    StoreWriter(remote).write_block("train", 1, 2, values(2, rows), parameters(2, rows))
    assert StoreWriter(remote).pending_blocks("train")[1] == [0, 1]
    fill(remote)
    assert open_store(remote)["train"].complete_views == [0, 1, 2]


def test_existing_store_on_s3_is_not_replaced_unasked(finished: RemotePath, plan: Callable[..., SplitPlan]) -> None:
    before = objects(finished)
    with pytest.raises(StoreExistsError, match=r"'s3://.*' exists already; use --resume"):
        create_store(finished, ATTRIBUTES, {"train": plan()})
    assert objects(finished) == before


def test_overwrite_leaves_nothing_of_the_old_store(finished: RemotePath, plan: Callable[..., SplitPlan]) -> None:
    create_store(finished, ATTRIBUTES, {"other": plan()}, overwrite=True)
    assert open_store(finished).split_names == ["other"]
    assert {key.partition("/")[0] for key in objects(finished)} == {"other", "zarr.json"}


def test_other_objects_are_left_alone(remote: RemotePath, plan: Callable[..., SplitPlan]) -> None:
    (remote / "1.jpg").write_bytes(b"picture")
    with pytest.raises(StoreExistsError, match="not empty and not an embedding store"):
        create_store(remote, {}, {"train": plan()}, overwrite=True)
    assert objects(remote) == {"1.jpg": b"picture"}


def test_creation_that_is_broken_off_leaves_no_store_and_is_begun_again(
    finished: RemotePath, plan: Callable[..., SplitPlan]
) -> None:
    with pytest.raises(ZeroDivisionError), finished.assembled(""):
        _ = 1 / 0
    assert finished.is_half_created()
    assert not is_there(finished)
    with pytest.raises(StoreDamagedError, match=r"zarr\.json' is missing"):
        open_store(finished)
    check_place(finished, overwrite=False)
    create_store(finished, ATTRIBUTES, {"train": plan()})
    assert is_there(finished)
    assert open_store(finished)["train"].complete_views == []


@pytest.mark.parametrize("url", ["https://host/x.zarr", "http://host/x.zarr"])
def test_web_server_is_not_written_to(plan: Callable[..., SplitPlan], url: str) -> None:
    with pytest.raises(
        StoreError, match=rf"'{url}' can only be read; write to a folder, or to s3 or gs://BUCKET/NAME\."
    ):
        create_store(location(url), {}, {"train": plan()})
    with pytest.raises(StoreError, match=rf"'{url}' can only be read"), exclusive_writer(location(url)):
        pass


def test_whole_bucket_is_no_store(bucket: str, plan: Callable[..., SplitPlan]) -> None:
    with pytest.raises(StoreError, match="is a whole bucket"):
        create_store(location(bucket), {}, {"train": plan()}, overwrite=True)


def test_store_that_is_not_there_is_said_not_to_be(bucket: str) -> None:
    with pytest.raises(StoreNotFoundError, match=rf"'{bucket}/none\.zarr' does not exist"):
        open_store(f"{bucket}/none.zarr")


def test_bucket_that_is_not_there_is_said_not_to_be(s3: Server, plan: Callable[..., SplitPlan]) -> None:
    for attempt in (
        lambda: open_store("s3://nowhere/a.zarr"),
        lambda: create_store(location("s3://nowhere/a.zarr"), {}, {}),
    ):
        with pytest.raises(
            StoreUnreachableError, match=r"^'s3://nowhere/a\.zarr.*' cannot be used: there is no such bucket"
        ):
            attempt()


def test_refusal_is_a_sentence(
    finished: RemotePath, monkeypatch: pytest.MonkeyPatch, again: Callable[[], None]
) -> None:
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    again()
    with pytest.raises(StoreUnreachableError, match=rf"^'{finished}/zarr\.json' cannot be used: the server refuses"):
        open_store(finished)


def test_server_that_does_not_answer_is_a_sentence(
    finished: RemotePath, monkeypatch: pytest.MonkeyPatch, again: Callable[[], None]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET}@127.0.0.1:{free_port()}")
    again()
    with pytest.raises(
        StoreUnreachableError, match=r"^'s3://\S+' cannot be used: no connection to 127.0.0.1:.*; check"
    ) as raised:
        open_store(finished)
    assert SECRET not in str(raised.value)


def test_store_of_a_web_server_is_read(
    complete: Path, web: Server, values: Callable[..., np.ndarray[Any, Any]], again: Callable[[], None]
) -> None:
    complete.rename(web.root / "a store.zarr")
    store = open_store(f"{web.url}/a%20store.zarr")
    np.testing.assert_array_equal(store["train"].view(1), values(1, slice(0, 22)))
    assert store["train"].complete_views == [0, 1, 2]
    assert verify_store(store).ok
    with pytest.raises(StoreNotFoundError, match="does not exist"):
        open_store(f"{web.url}/none.zarr")


def test_password_of_a_web_server_comes_from_netrc(
    complete: Path, web: Server, tmp_path: Path, again: Callable[[], None]
) -> None:
    complete.rename(web.root / "store.zarr")
    with pytest.raises(StoreUnreachableError, match="the server does not accept these credentials"):
        open_store(f"{web.url}/closed/store.zarr")
    (tmp_path / "no-netrc").write_text(f"machine 127.0.0.1 login reader password {SECRET}\n")
    again()
    assert len(open_store(f"{web.url}/closed/store.zarr")["val"]) == 6


def test_description_of_a_remote_store_is_that_of_a_local_one(complete: Path, web: Server) -> None:
    from compress_ssl.storage import describe

    local = describe(open_store(complete))
    complete.rename(web.root / "store.zarr")
    remote = describe(open_store(f"{web.url}/store.zarr"))
    assert json.loads(json.dumps(remote)) == {**local, "path": f"{web.url}/store.zarr"}
