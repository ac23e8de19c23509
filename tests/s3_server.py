"""A program for moto's environment: its S3 server on 127.0.0.1, at the port of the first argument.

``moto_server`` takes twice the time for a request: it looks among all services of AWS for the one that is meant.
"""

import signal
import sys
from typing import Any

from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple


class Handler(MotoRequestHandler):  # type: ignore[misc]
    """Writes each request as one line."""

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        sys.stderr.write(f'"{self.requestline}" {getattr(code, "value", code)} {size}\n')


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
run_simple("127.0.0.1", int(sys.argv[1]), create_backend_app("s3"), threaded=True, request_handler=Handler)
