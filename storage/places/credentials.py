"""The profile of Amazon's tools: keys, region and endpoint from ``~/.aws`` where the environment has none."""

from __future__ import annotations

import configparser
import os
import urllib.error
import urllib.request
from pathlib import Path

from compress_ssl.storage.errors import StoreUnreachableError

KEYS = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}
"""Names in the profile, and what the client calls them."""

GIVES_KEYS = (
    *("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SKIP_SIGNATURE"),
    *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
)
"""Variables of which one is enough."""

NO_KEYS = (
    "No credentials for S3 were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or "
    "AWS_SKIP_SIGNATURE=true for a public bucket."
)

ANSWER_SECONDS = 2

SIGNED_IN_OTHERWISE = ("sso_session", "sso_start_url", "role_arn", "credential_process")


def aws_profile() -> tuple[dict[str, str], str]:
    """Settings for the S3 client that the environment does not hold, and the endpoint, which may be empty.

    Raises
    ------
    StoreUnreachableError
        If ``AWS_PROFILE`` names a profile that is not there, or one whose keys only Amazon's own tools can get; if
        there are no keys at all.
    """
    environment = os.environ
    profile = _read_profile(environment.get("AWS_PROFILE"))
    config: dict[str, str] = {}
    if not environment.get("AWS_ACCESS_KEY_ID"):
        config |= {ours: profile[theirs] for theirs, ours in KEYS.items() if theirs in profile}
        if not config and any(key in profile for key in SIGNED_IN_OTHERWISE) and "AWS_PROFILE" in environment:
            raise StoreUnreachableError(
                f"AWS_PROFILE {environment['AWS_PROFILE']} holds no keys; export them first: "
                'eval "$(aws configure export-credentials --format env)".'
            )
    if not (environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")) and "region" in profile:
        config["region"] = profile["region"]
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    endpoint = next((environment[name] for name in names if environment.get(name)), "")
    if not endpoint and "endpoint_url" in profile:
        config["endpoint"] = endpoint = profile["endpoint_url"]

    if "access_key_id" not in config and not any(map(environment.get, GIVES_KEYS)) and not _machine_may_have_keys():
        raise StoreUnreachableError(NO_KEYS)
    return config, endpoint


def _machine_may_have_keys() -> bool:
    """Whether the service answers that machines at Amazon get their keys from; the client would try it for minutes."""
    place = os.environ.get("AWS_METADATA_ENDPOINT") or "http://169.254.169.254"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(place, timeout=ANSWER_SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _read_profile(asked: str | None) -> dict[str, str]:
    name = asked or "default"
    files = {
        _file("AWS_CONFIG_FILE", "config"): name if name == "default" else f"profile {name}",
        _file("AWS_SHARED_CREDENTIALS_FILE", "credentials"): name,
    }
    found: dict[str, str] = {}
    for file, section in files.items():
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            raise StoreUnreachableError(f"'{file}' cannot be read as Amazon's tools write it; correct it.") from None
        found |= dict(parser[section]) if parser.has_section(section) else {}
    if asked and not found:
        raise StoreUnreachableError(f"AWS_PROFILE names '{asked}', which is in none of {', '.join(map(str, files))}.")
    return found


def _file(variable: str, name: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / ".aws" / name).expanduser()
