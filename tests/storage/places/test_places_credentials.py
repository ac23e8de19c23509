"""Credentials for S3, region and endpoint: where they are found, and the sentence where there are none."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compress_ssl.storage import RemotePath, StoreError, open_store
from compress_ssl.storage.errors import StoreRefusedError, StoreUnreachableError
from compress_ssl.storage.places.credentials import S3Credentials, s3_credentials, web_credentials
from compress_ssl.storage.zarr_stores import CheckedStore, PlaceStore
from tests.servers import ROOT, SECRET, Server

WITHOUT_HOME = """
import os, sys
from compress_ssl.storage import open_store
from compress_ssl.storage.places.connection import client

open_store(sys.argv[1])["train"].view(0)  # imports what the user below may not read
client.cache_clear()
del os.environ["HOME"]
os.setgroups([])
os.setgid(12345)
os.setuid(12345)
open_store(sys.argv[1])["train"].view(0)
print("read")
"""


def test_lack_of_credentials_is_a_sentence(
    bucket: str, monkeypatch: pytest.MonkeyPatch, again: Callable[[], None]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    again()
    with pytest.raises(StoreUnreachableError, match="No credentials for S3 were found; set AWS_ACCESS_KEY_ID"):
        open_store(f"{bucket}/store.zarr")


def test_keys_and_endpoint_come_from_the_profile(
    finished: RemotePath, s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: Callable[[], None]
) -> None:
    pytest.importorskip("boto3")
    (tmp_path / "no-credentials").write_text(f"[lab]\naws_access_key_id = AK\naws_secret_access_key = {SECRET}%x\n")
    (tmp_path / "no-config").write_text(f"[profile lab]\nregion = eu-west-3\nendpoint_url = {s3.url}\n")
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "ENDPOINT_URL"):
        monkeypatch.delenv(f"AWS_{name}")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    again()
    found = s3_credentials()
    assert (found.endpoint, found.config) == (s3.url, {"region": "eu-west-3", "endpoint": s3.url})
    assert found.provider is not None
    keys = found.provider()
    assert (keys["access_key_id"], keys["secret_access_key"]) == ("AK", f"{SECRET}%x")
    assert open_store(finished)["val"].view(0).shape == (6, 4)


def test_keys_of_the_environment_go_before_those_of_the_profile(
    here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("boto3")
    (tmp_path / "no-credentials").write_text("[default]\naws_access_key_id = AK\naws_secret_access_key = SK\n")
    (tmp_path / "no-config").write_text("[default]\nregion = eu-west-3\n")
    found = s3_credentials()
    assert found.provider is not None
    assert found.provider()["access_key_id"] == "AK"
    monkeypatch.setenv("AWS_REGION", "us-west-1")
    assert s3_credentials().config == {"region": "us-west-1"}  # the client's is else that of the provider
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    assert s3_credentials() == S3Credentials("", {"region": "eu-west-3"})
    monkeypatch.setenv("AWS_REGION", "us-west-1")
    assert s3_credentials() == S3Credentials("", {"region": "us-west-1"})


def test_half_a_pair_of_keys_is_a_sentence(
    bucket: str, monkeypatch: pytest.MonkeyPatch, again: Callable[[], None]
) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    again()
    with pytest.raises(StoreUnreachableError, match="AWS_ACCESS_KEY_ID is set without AWS_SECRET_ACCESS_KEY; set both"):
        open_store(f"{bucket}/store.zarr")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StoreUnreachableError, match="AWS_SECRET_ACCESS_KEY is set without AWS_ACCESS_KEY_ID; set both"):
        open_store(f"{bucket}/store.zarr")


def test_profile_that_gives_no_keys_is_a_sentence(here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("boto3")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    with pytest.raises(StoreRefusedError, match="The AWS profile 'lab' is not in"):
        s3_credentials()
    (tmp_path / "no-config").write_text(
        "[profile lab]\nsso_start_url = https://lab.example/start\nsso_region = eu-west-3\n"
        "sso_account_id = 1\nsso_role_name = reader\n"
    )
    with pytest.raises(
        StoreRefusedError, match=r"^The credentials for S3 could not be obtained: .*SSO.*; renew or fix"
    ):
        s3_credentials()
    (tmp_path / "no-config").write_text("no profile\n")
    with pytest.raises(StoreRefusedError, match=r"^The credentials for S3 could not be obtained: .*no-config"):
        s3_credentials()


def test_missing_packages_are_named_with_their_extra(here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that is None in ``sys.modules`` is not found."""
    for package in ("boto3", "obstore"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "obstore.exceptions", raising=False)
    with pytest.raises(
        StoreRefusedError, match=r"No credentials .* needs the package 'boto3'; .*compress-ssl\[remote\]"
    ):
        s3_credentials()
    monkeypatch.setenv("AWS_PROFILE", "lab")
    with pytest.raises(StoreError, match=r"^AWS_PROFILE needs the package 'boto3'; .*'compress-ssl\[remote\]'\.$"):
        s3_credentials()
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert s3_credentials() == S3Credentials("")
    with pytest.raises(
        StoreError, match=r"^'s3://bucket/store.zarr/.*' needs the package 'obstore'; .*'compress-ssl\[remote\]'\.$"
    ):
        open_store("s3://bucket/store.zarr")


def test_what_is_sent_to_another_process_holds_no_credentials(finished: RemotePath) -> None:
    for store in (CheckedStore(finished), PlaceStore(finished)):
        content = pickle.dumps(store)
        assert SECRET.encode() not in content
        assert pickle.loads(content).place == finished


@pytest.mark.parametrize(
    "endpoint",
    [
        *("localhost:9000", "http://", "http://h:99999", "http://h:x", "http://h:0", "ftp://h", "https://[::1"),
        *("http://h o", " http://h", "http://ü.example", f"http://me:{SECRET}@h:x/"),
    ],
)
def test_endpoint_that_is_none_is_a_sentence(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: Callable[[], None], endpoint: str
) -> None:
    """The client panics at most of them."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    again()
    with pytest.raises(StoreRefusedError, match=r"^AWS_ENDPOINT_URL is no address of a server") as raised:
        open_store(f"{bucket}/store.zarr")
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("AWS_REGION", "eu-west\n1", r"^AWS_REGION holds a line end"),
        ("AWS_SESSION_TOKEN", f"{SECRET}\n", r"^AWS_SESSION_TOKEN holds a line end"),
        ("AWS_SKIP_SIGNATURE", "perhaps", r"'s3://.*' cannot be used: .*\"perhaps\" as boolean"),
    ],
)
def test_variable_that_the_client_cannot_use_is_a_sentence(
    bucket: str, monkeypatch: pytest.MonkeyPatch, again: Callable[[], None], name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(name, value)
    again()
    with pytest.raises(StoreRefusedError, match=sentence) as raised:
        open_store(f"{bucket}/store.zarr")
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("content", [b"= x", bytes(range(256)), "[default]".encode("utf-16")])
@pytest.mark.parametrize("file", ["no-config", "no-credentials"])
def test_damaged_file_of_profiles_is_a_sentence(here: None, tmp_path: Path, file: str, content: bytes) -> None:
    pytest.importorskip("boto3")
    (tmp_path / file).write_bytes(content)
    with pytest.raises(StoreRefusedError, match=rf"^The credentials for S3 could not be obtained: .*{file}; renew or"):
        s3_credentials()


@pytest.mark.parametrize("content", [None, b"{", b"\xff\x00", b"[]", b'{"type": "service_account"}'])
def test_damaged_account_file_of_google_is_a_sentence(
    here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "account.json").write_bytes(content)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    with pytest.raises(StoreRefusedError, match=r"^'gs://b' cannot be used: .*service account file.*; check what the"):
        open_store("gs://b/store.zarr")


@pytest.mark.parametrize("content", [b"machine", b"\xff\xfe\x80"])
def test_damaged_netrc_is_a_warning(
    here: None, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / "no-netrc").write_bytes(content)
    assert web_credentials("host:80") == {}
    assert f"'{tmp_path / 'no-netrc'}' cannot be read" in caplog.text


@pytest.mark.parametrize("file", ["no-config", "no-credentials", "no-netrc"])
def test_file_of_credentials_that_is_a_pipe_is_not_waited_for(here: None, tmp_path: Path, file: str) -> None:
    os.mkfifo(tmp_path / file)
    with pytest.raises(StoreRefusedError, match=rf"'.*{file}' is no file of credentials"):
        web_credentials("host:80") if file == "no-netrc" else s3_credentials()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user without a home folder")
def test_store_is_read_by_a_user_without_a_home_folder(finished: RemotePath, tmp_path: Path) -> None:
    names = ("XDG_CACHE_HOME", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "NETRC")
    environment = {**os.environ, "HOME": str(tmp_path), **dict.fromkeys(names, "")}
    command = [sys.executable, "-c", WITHOUT_HOME, str(finished)]
    assert subprocess.check_output(command, cwd=ROOT, env=environment, text=True) == "read\n"
