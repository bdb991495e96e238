"""A real S3 server process for tests: moto behind werkzeug on loopback. Prints its port, ends with its stdin.

moto looks whether an object exists and then stores it in two steps, so two conditional puts at once can both
win, which S3 rules out. A lock around conditional puts gives them S3's promise.
"""

import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server


class QuietHandler(MotoRequestHandler):
    """Logs nothing."""

    def log_request(self, *_: Any, **__: Any) -> None:
        """Pass over."""


def main() -> None:
    """Serve until stdin closes, which it does when the test process ends, however it ends."""
    lock = threading.Lock()
    app = DomainDispatcherApplication(create_backend_app)

    def atomic(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith("/careless/"):  # a server that does not know conditional puts
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if "HTTP_IF_NONE_MATCH" not in environ:
            return app(environ, start_response)
        with lock:
            return list(app(environ, start_response))

    server = make_server("127.0.0.1", 0, atomic, threaded=True, request_handler=QuietHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
