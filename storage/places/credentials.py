"""Credentials, region and endpoint for S3: from the environment variables of Amazon's tools, else through boto3.

The client itself reads keys in environment variables. All else (profiles in ``~/.aws``, single sign-on, roles, the
metadata service of Amazon's machines) is left to boto3. Passwords of web servers are in ``~/.netrc``.
"""

from __future__ import annotations

import base64
import logging
import netrc
import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from compress_ssl.storage.errors import StoreError, StoreRefusedError
from compress_ssl.storage.places.urls import is_server

if TYPE_CHECKING:
    from obstore.auth.boto3 import Boto3CredentialProvider

logger = logging.getLogger(__name__)

GIVES_KEYS = (
    *("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SKIP_SIGNATURE"),
    *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
)  # environment variables any of which gives the client its credentials

ENDPOINT = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
REGION = ("AWS_REGION", "AWS_DEFAULT_REGION")
PROFILE = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE")

MAX_PROFILE_BYTES = 2**22

PROFILE_FILES = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}
"""Environment variables that name the files of profiles, and the files if these are not set."""

NO_KEYS = (
    "No credentials for S3 were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or "
    "AWS_SKIP_SIGNATURE=true for a public bucket."
)


@dataclass(frozen=True)
class S3Credentials:
    """Settings of an S3 client beside those that it finds in environment variables."""

    endpoint: str  # URL of the server; empty for Amazon's
    config: dict[str, str] = field(default_factory=dict)  # endpoint of a profile, and the region
    provider: Boto3CredentialProvider | None = None
    """Gives the keys, and renews them; None if the environment has them."""


def needs(package: str, *, purpose: str) -> str:
    """Return the sentence for a package of the extra ``[remote]`` that is not installed."""
    return f"{purpose} needs the package '{package}'; install it by: pip install 'compress-ssl[remote]'."


def s3_credentials() -> S3Credentials:
    """Find credentials, endpoint and region.

    Raises:
        StoreRefusedError: If there are no credentials, only half a pair of keys, or boto3 cannot get those that are
            configured; if the endpoint is no URL.
        StoreError: If a profile is asked for and boto3 is not installed.
    """
    pair = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    for name, other in (pair, pair[::-1]):
        if os.environ.get(name) and not os.environ.get(other):
            raise StoreRefusedError(f"{name} is set without {other}; set both.")
    endpoint, region = (next(filter(None, map(os.environ.get, names)), "") for names in (ENDPOINT, REGION))
    _check_endpoint(endpoint, next(filter(os.environ.get, ENDPOINT), ""))
    for name in (*pair, "AWS_SESSION_TOKEN", *REGION):  # the client ends in a panic
        if not (value := os.environ.get(name, "")).isprintable() or not value.isascii():
            raise StoreRefusedError(f"{name} holds a line end or another character that it cannot have; set it anew.")
    has_keys = any(map(os.environ.get, GIVES_KEYS))
    if find_spec("boto3") is None:
        if named := next(filter(os.environ.get, PROFILE), None):
            raise StoreError(needs("boto3", purpose=named))
        if not has_keys:
            raise StoreRefusedError(f"{NO_KEYS} {needs('boto3', purpose='All else')}")
        return S3Credentials(endpoint)
    files = [os.environ.get(name) or file for name, file in PROFILE_FILES.items()]
    if has_keys and ((endpoint and region) or not any(map(os.path.isfile, map(os.path.expanduser, files)))):
        return S3Credentials(endpoint)
    for file in files:  # botocore would wait for a FIFO, and read a file of any size
        _check_file(file)

    import boto3
    import botocore.session
    from botocore.exceptions import BotoCoreError, ClientError, ProfileNotFound
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        session = botocore.session.Session()
        profile = session.get_scoped_config()
        found = {"endpoint": not endpoint and profile.get("endpoint_url"), "region": region or profile.get("region")}
        config = {name: value for name, value in found.items() if value}
        provider = None
        if not has_keys:
            boto = boto3.Session(botocore_session=session)
            credentials = boto.get_credentials()
            if credentials is None:
                raise StoreRefusedError(NO_KEYS)
            credentials.get_frozen_credentials()  # fails here: the client's message would not name the cause
            provider = Boto3CredentialProvider(boto)
    except ProfileNotFound as error:
        raise StoreRefusedError(f"The AWS profile '{error.kwargs['profile']}' is not in {', '.join(files)}.") from None
    except (BotoCoreError, ClientError, OSError, ValueError) as error:  # OSError, ValueError: its files of profiles
        if isinstance(error, StoreRefusedError):
            raise
        raise StoreRefusedError(f"The credentials for S3 could not be obtained: {error}; renew or fix them.") from None
    _check_endpoint(config.get("endpoint", ""), "endpoint_url of the AWS profile")
    return S3Credentials(endpoint or config.get("endpoint", ""), config, provider)


def _check_endpoint(url: str, origin: str) -> None:
    """Check that an endpoint is an address of a server, on which the client else panics.

    Raises:
        StoreRefusedError: If it is none; the message leaves the value out, which may hold a password.
    """
    if url and not is_server(url):
        raise StoreRefusedError(f"{origin} is no address of a server; write it as https://HOST or http://HOST:PORT.")


def web_credentials(host: str) -> dict[str, str]:
    """Return the header with the user and password for a web server: those of ``~/.netrc``, or the file in NETRC."""
    file = os.environ.get("NETRC") or "~/.netrc"
    _check_file(file)
    try:
        entry = netrc.netrc(os.environ.get("NETRC")).hosts.get(urlsplit(f"//{host}").hostname or "")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, netrc.NetrcParseError) as error:
        logger.warning("'%s' cannot be read (%s); '%s' is asked without a password.", file, type(error).__name__, host)
        return {}
    if entry is None:
        return {}
    return {"authorization": f"Basic {base64.b64encode(f'{entry[0]}:{entry[2]}'.encode()).decode()}"}


def _check_file(file: str) -> None:
    path = os.path.expanduser(file)
    if os.path.exists(path) and not (os.path.isfile(path) and os.path.getsize(path) <= MAX_PROFILE_BYTES):
        raise StoreRefusedError(f"'{file}' is no file of credentials, or a very large one; correct it.")
