"""How object stores and web servers are reached: what is known of credentials, and what a failure is called.

Credentials and endpoints come from where each service's own tools look: ``AWS_*`` (``AWS_ENDPOINT_URL`` for other servers
than Amazon's) and the profile in ``~/.aws``, ``GOOGLE_*``, ``~/.netrc``. They stay in the client: nothing of ours says or
writes them.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import netrc
import os
import re
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from compress_ssl.storage.errors import StoreRefusedError, StoreUnreachableError
from compress_ssl.storage.places.aws_profile import aws_profile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from compress_ssl.storage.places.remote import RemotePath

RETRY_SECONDS = "COMPRESS_SSL_RETRY_SECONDS"
"""Environment variable: how long a request that fails is tried again; three minutes unless set."""


@lru_cache(maxsize=256)
def client(root: str, prefix: str = "") -> Any:
    """The obstore client of a bucket or host, or of what lies below a prefix of it; one a process.

    Raises
    ------
    StoreUnreachableError
        If the configuration found cannot be used.
    """
    from obstore.store import GCSStore, HTTPStore, S3Store

    scheme, name = root.split("://")
    seconds = float(os.environ.get(RETRY_SECONDS) or 180)
    retry: Any = {"retry_timeout": timedelta(seconds=seconds)}
    options: Any = {"timeout": timedelta(minutes=5), "connect_timeout": timedelta(seconds=10)}
    if scheme == "s3":
        config, endpoint = aws_profile()
        # The user's own endpoint may be without TLS, as on a lab's network; Amazon's never is.
        options["allow_http"] = endpoint.startswith("http://")
        return S3Store(name, prefix=prefix or None, config=config, client_options=options, retry_config=retry)  # type: ignore[arg-type]
    if scheme == "gs":
        options["allow_http"] = True  # asked for by nothing but a service account's file that names such a server
        return GCSStore(name, prefix=prefix or None, client_options=options, retry_config=retry)
    options |= {"allow_http": scheme == "http", "default_headers": _authorization(name)}
    return HTTPStore(f"{root}/{prefix}", client_options=options, retry_config=retry)


def object_name(path: RemotePath) -> str:
    """The key as the client wants it: of a URL of the web, without its percent signs."""
    return unquote(path.key) if path.root.startswith("http") else path.key


def _authorization(host: str) -> dict[str, str]:
    """What ``~/.netrc`` (or the file that ``NETRC`` names) says of a host."""
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        entry = netrc.netrc(os.environ.get("NETRC")).hosts.get(urlsplit(f"//{host}").hostname or "")
        if entry is not None:
            token = base64.b64encode(f"{entry[0]}:{entry[2]}".encode()).decode()
            return {"authorization": f"Basic {token}"}
    return {}


@contextlib.contextmanager
def reaching(place: RemotePath) -> Iterator[None]:
    """Turn what the client raises into one sentence that names the place and the reason.

    Raises
    ------
    FileNotFoundError
        If there is no such object.
    StoreUnreachableError
        If the server cannot be reached (after retries).
    StoreRefusedError
        If it refuses the request, or has no such bucket.
    obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError
        As the client, of a write that was to fail then.
    """
    from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

    try:
        yield
    except (AlreadyExistsError, PreconditionError):
        raise
    except FileNotFoundError as error:
        if "NoSuchBucket" not in str(error):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place)) from None
        raise _unreachable(place, error) from None
    except BaseError as error:
        raise _unreachable(place, error) from None


SERVER_ANSWERED = re.compile(r"status code: (\d{3} [A-Z][A-Za-z ]*)")

REFUSALS = (
    ("NoSuchBucket", "there is no such bucket; check its name, or create it"),
    ("Missing AccessKeyId", "AWS_SECRET_ACCESS_KEY is set without AWS_ACCESS_KEY_ID; set both"),
    ("Missing SecretAccessKey", "AWS_ACCESS_KEY_ID is set without AWS_SECRET_ACCESS_KEY; set both"),
    (
        "/latest/api/token",
        "this machine has no credentials of its own; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    ("metadata.google.internal", "no credentials were found; set GOOGLE_APPLICATION_CREDENTIALS"),
    ("code: 401", "the server does not accept these credentials; correct or renew them"),
    (
        "code: 403",
        "the server refuses these credentials, or the lack of them, for this; check them and the bucket's rules",
    ),
    ("PermanentRedirect", "the bucket is in another region; set AWS_REGION"),
)
FAILURES = (
    ("lookup address", "there is no such host; check the URL and AWS_ENDPOINT_URL"),
    ("kind: Connect", "no connection; check the URL and the network, then run the same command again"),
    ("kind: Timeout", "no answer in time; check the network, then run the same command again"),
)
"""By what the client's message holds: why the server refuses a request, or cannot be reached."""


def _unreachable(place: RemotePath, error: Exception) -> StoreUnreachableError:
    text = str(error)
    for reasons, error_class in ((REFUSALS, StoreRefusedError), (FAILURES, StoreUnreachableError)):
        for sign, reason in reasons:
            if sign in text:
                return error_class(f"'{place}' cannot be used: {reason}.")
    answered = SERVER_ANSWERED.search(text)
    said = f"the server answers {answered[1].strip()}" if answered else without_secrets(text.partition("\n")[0])
    return StoreUnreachableError(f"'{place}' cannot be used: {said}; try again later, or check the place.")


def without_secrets(text: str) -> str:
    """A URL, or a text that holds some, without users, passwords and queries."""
    return re.sub(r"://[^/\s]*@", "://", re.sub(r"[?#][^\s'\"]*", "", text))
