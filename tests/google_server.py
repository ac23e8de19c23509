"""Google's object store on loopback: the emulator ``fake-gcs-server``, and before it a translator.

The client puts objects by the XML API, which the emulator knows for reading, listing and deleting only.
"""

import json
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.faulty_server import Answer, Handler, faulty_server
from tests.processes import free_port
from tests.servers import MOTO, running

MULTIPART = (
    b"--X\r\ncontent-type: application/json\r\n\r\n%s\r\n--X\r\ncontent-type: application/octet-stream\r\n\r\n%s"
    b"\r\n--X--\r\n"
)


class _Translator(Handler):
    """Hands puts on as uploads of the JSON API, with their condition on the generation."""

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        if method != "PUT":
            return super().forward(method, path, headers, body)
        bucket, _, key = unquote(path).strip("/").partition("/")
        generation = next((headers[name] for name in headers if name.lower() == "x-goog-if-generation-match"), None)
        condition = f"&ifGenerationMatch={generation}" if generation else ""
        status, _, content = super().forward(
            "POST",
            f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart{condition}",
            {"content-type": "multipart/related; boundary=X"},
            MULTIPART % (json.dumps({"name": key}).encode(), body),
        )
        made = json.loads(content) if status == 200 else {}
        return status, [("etag", f'"{made.get("etag")}"'), ("x-goog-generation", str(made.get("generation")))], b""


@pytest.fixture(scope="session")
def _google_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = next(MOTO.parents[1].glob("lib/*/site-packages/fake_gcs_server*/vendor/**/fake-gcs-server-linux-*"), None)
    if program is None:
        pytest.skip("Google's emulator is not installed; run 'make servers'")
    port = free_port()
    log = tmp_path_factory.mktemp("gs") / "output.log"
    command = [str(program), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    with (
        running([*command, "-public-host", f"127.0.0.1:{port}"], log, port),
        faulty_server(f"http://127.0.0.1:{port}", _Translator) as server,
    ):
        server.drops = ("host",)  # the emulator looks at it
        server.start()
        yield server.url


@pytest.fixture
def google_bucket(
    _google_server: str, here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: Callable[[], None]
) -> str:
    """URL of an empty bucket of its own, in an environment that names the server."""
    name = f"test-{uuid.uuid4().hex}"
    content = json.dumps({"name": name}).encode()
    headers = {"content-type": "application/json"}
    urllib.request.urlopen(
        urllib.request.Request(f"{_google_server}/storage/v1/b", content, headers), timeout=60
    ).close()
    account = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
    (tmp_path / "account.json").write_text(
        json.dumps(account | {"gcs_base_url": _google_server, "disable_oauth": True})
    )
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
    again()
    return f"gs://{name}"
