"""Texts that are URLs, or were meant as ones; what of them may be printed."""

from __future__ import annotations

import re

from compress_ssl.storage.errors import StoreError

WRITABLE = ("s3", "gs")
READ_ONLY = ("https", "http")

# Pathlib makes one slash of two, and a user may forget both. "swav:/weights/x.pth" is a path.
_MEANT_AS_URL = re.compile(
    r"\s*((?:s3[an]?|gs|gcs|https?|ftps?|sftp|ssh|file|hdfs|hf|webdavs?)(?=:)|[a-z][a-z0-9+.-]*(?=://)):(.*)",
    re.IGNORECASE | re.DOTALL,
)
_SECRET = re.compile(r"/*[^/]*@|.*[?#]", re.DOTALL)
_HOST = re.compile(r"(?:\[[\da-f:.]+\]|[a-z\d][\w.-]*)(?::(\d{1,5}))?", re.IGNORECASE | re.ASCII)
_SERVER = re.compile(r"https?://(?:[^/\s]*@)?([^/@]+)(?:/[!-~]*)?", re.IGNORECASE | re.ASCII)


def is_url(text: object) -> bool:
    """Return whether a text is a URL, or was meant as one."""
    return _MEANT_AS_URL.fullmatch(str(text)) is not None


def split_url(text: str) -> tuple[str, str]:
    """Return a URL's scheme with its bucket or host, ``s3://bucket``, and its key without slashes at either end.

    Raises:
        StoreError: If a store cannot be there; the message leaves out the secrets that the URL may hold.
    """
    check_no_secrets(text)
    scheme, _, rest = text.partition(":")
    if scheme.lower() not in (*WRITABLE, *READ_ONLY) or not rest.startswith("//"):
        raise StoreError(
            f"'{_shown(text)}' is no place for a store; give a folder, or a URL as s3://BUCKET/NAME, gs://, https://."
        )
    host, _, key = rest[2:].partition("/")
    if not (_is_host(host) and key.isprintable()) or {".", ".."} & set(key.split("/")):
        raise StoreError(
            f"'{_shown(text)}' names no bucket or host, or has a wrong port, '.', '..' or a control character; "
            "give s3://BUCKET/NAME, gs:// or https://HOST/NAME."
        )
    return f"{scheme.lower()}://{host}", re.sub("/+", "/", key).strip("/")


def is_server(url: str) -> bool:
    """Return whether a URL is the address of a server that can be asked."""
    found = _SERVER.fullmatch(url)
    return found is not None and _is_host(found[1])


def _is_host(text: str) -> bool:
    """Return whether a text can be a host, with a port or without, or a bucket."""
    found = _HOST.fullmatch(text)
    return found is not None and 0 < int(found[1] or 1) < 2**16


def check_is_path(path: object) -> None:
    """Check that a path of this machine is not meant as a URL.

    Raises:
        StoreError: If it is; the message leaves out the secrets that it may hold.
    """
    check_no_secrets(path)
    if is_url(path):
        raise StoreError(f"'{_shown(str(path))}' is a URL; give a path of this machine.")


def check_no_secrets(text: object) -> None:
    """Check that a URL has no user, password or query.

    Raises:
        StoreError: If it has; the message leaves them out.
    """
    found = _MEANT_AS_URL.fullmatch(str(text))
    if found is not None and _SECRET.match(found[2]):
        raise StoreError(
            f"'{_shown(str(text))}' was given with a password, a signature or other settings, which would end "
            "up in records; leave them out: they are taken from the environment, ~/.aws, "
            "GOOGLE_APPLICATION_CREDENTIALS or ~/.netrc."
        )


def _shown(url: str) -> str:
    """Return a URL without user, password and query, whatever characters they have."""
    return re.sub(r"^([^:]*:/*).*@", r"\1", re.sub(r"[?#].*", "", url, flags=re.DOTALL), flags=re.DOTALL)


def without_secrets(text: str) -> str:
    """Return a text that may hold URLs without their users, passwords and queries."""
    return re.sub(r"([A-Za-z0-9]:/*)[^\s'\"]*@", r"\1", re.sub(r"[?#][^\s'\"]*", "", text))
