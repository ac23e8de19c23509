"""Servers for tests of remote stores: moto's S3 in an environment of its own, nginx; both on loopback.

``make servers`` installs them; a test that needs one which is not there is skipped, and says so.
"""

import math
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from compress_ssl.storage.places import retries
from compress_ssl.storage.places.connection import client
from compress_ssl.storage.places.retries import RETRY_SECONDS
from tests.processes import free_port

ROOT = Path(__file__).parents[1]
MOTO = ROOT / ".venv-moto" / "bin" / "python"
SECRET = "not-to-be-seen-anywhere-7c1f"

NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
  log_format requests '"$request_method $uri" $status';
  access_log {folder}/requests.log requests;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location / {{ root {root}; }}
    location /closed/ {{
      auth_basic closed; auth_basic_user_file {folder}/passwords; alias {root}/;
    }}
  }}
}}
"""


def s3_command(port: int) -> list[str]:
    """Return the command of an S3 server."""
    return [str(MOTO), str(ROOT / "tests" / "s3_server.py"), str(port)]


@dataclass(frozen=True)
class Server:
    """A server that is running."""

    url: str
    log: Path
    root: Path
    """Folder of what nginx serves."""

    def requests(self, method: str = "GET") -> list[str]:
        """Paths that were asked for so far."""
        return re.findall(rf'"{method} (\S+?)[?" ]', self.log.read_text())


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An S3 server."""
    if not (MOTO.parents[1] / "installed").is_file():
        pytest.skip("the S3 server of the tests is not installed; run 'make servers'")
    folder = tmp_path_factory.mktemp("s3")
    port = free_port()
    with running(s3_command(port), folder / "requests.log", port):
        yield Server(f"http://127.0.0.1:{port}", folder / "requests.log", folder)


@pytest.fixture
def s3(s3_server: Server, here: None, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The S3 server, and an environment that names it and has keys."""
    for name, value in {"ENDPOINT_URL": s3_server.url, "ACCESS_KEY_ID": "tests", "SECRET_ACCESS_KEY": SECRET}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    return s3_server


@pytest.fixture
def bucket(s3: Server) -> str:
    """URL of an empty bucket of its own."""
    name = f"test-{uuid.uuid4().hex}"
    with urllib.request.urlopen(urllib.request.Request(f"{s3.url}/{name}", method="PUT")) as answer:
        assert answer.status == 200
    return f"s3://{name}"


@pytest.fixture
def web(tmp_path: Path, here: None) -> Iterator[Server]:
    """An nginx that serves ``root``, and the same behind a password below ``/closed``."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed; run 'make servers' as root, or install it")
    folder, root, port = tmp_path / "nginx", tmp_path / "served", free_port()
    folder.mkdir()
    root.mkdir()
    (folder / "passwords").write_text(f"reader:{{PLAIN}}{SECRET}\n")
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, root=root, port=port))
    command = [program, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    with running(command, folder / "output.log", port):
        yield Server(f"http://127.0.0.1:{port}", folder / "requests.log", root)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment with no credentials, short retries, and a cache of its own."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "COMPRESS_SSL_CACHE"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_CONFIG_FILE": tmp_path / "no-config",
        "AWS_SHARED_CREDENTIALS_FILE": tmp_path / "no-credentials",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NETRC": tmp_path / "no-netrc",
        "XDG_CACHE_HOME": tmp_path / "cache",
        RETRY_SECONDS: 2,
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(retries, "_ending_since", math.inf)  # an interrupted command in this process has set it
    client.cache_clear()
    yield
    client.cache_clear()


@pytest.fixture
def again() -> Callable[[], None]:
    """Forget the connections: the environment has changed."""
    return client.cache_clear


class running:
    """A server's process, while the block runs."""

    def __init__(self, command: list[str], log: Path, port: int) -> None:
        self._command, self._log, self._port = command, log, port

    def __enter__(self) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self._process.poll() is None, self._log.read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            time.sleep(0.05)
        pytest.fail(f"{self._command[0]} does not listen after a minute")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)
