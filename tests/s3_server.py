"""A program for moto's environment: its S3 server on 127.0.0.1, at the port of the first argument.

``moto_server`` is slower: it looks among all services of AWS for the one that each request is meant for, and its web
server closes the connection after each.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import create_backend_app
from waitress import serve

s3 = create_backend_app("s3")


def logged(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer a request, and write it as one line."""

    def start(status: str, *rest: Any) -> Any:
        sys.stderr.write(f'"{environ["REQUEST_METHOD"]} {environ["REQUEST_URI"]}" {status.partition(" ")[0]}\n')
        return start_response(status, *rest)

    answer: Iterable[bytes] = s3(environ, start)
    return answer


# Each client of the tests leaves its connections open.
serve(logged, host="127.0.0.1", port=int(sys.argv[1]), threads=16, connection_limit=10_000, asyncore_use_poll=True)
