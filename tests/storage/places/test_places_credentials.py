"""Credentials for S3, region and endpoint: where they are found, and the sentence where there are none."""

import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compress_ssl.storage import RemotePath, StoreError, open_store
from compress_ssl.storage.errors import StoreRefusedError, StoreUnreachableError
from compress_ssl.storage.places.credentials import S3Credentials, s3_credentials
from compress_ssl.storage.zarr_stores import CheckedStore, PlaceStore
from tests.servers import SECRET, Server


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
