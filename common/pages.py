"""A small HTTP server for GET requests of probes and Prometheus: one callback answers all paths.

Threads of its own, so that it answers while the process's loop is busy; a client that sends nothing is dropped after
`_CLIENT_TIMEOUT_S`, and of too many at once the one that has been there longest: whoever dawdles can neither use up the
process's threads nor keep a probe from its answer. It serves what the process chooses to say, takes nothing in, and has
no authentication: the network policy (and on one machine, loopback) decides who may ask.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from common.errors import UserError

_CLIENT_TIMEOUT_S = 10.0
_MAX_CLIENTS = 32
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Page:
    """An answer. `headers`: beyond Content-Type and Content-Length."""

    body: bytes
    status: int = 200
    content_type: str = TEXT
    headers: Mapping[str, str] = field(default_factory=dict)


Answer = Callable[[str, Mapping[str, str]], Page | None]
"""(path without query, request headers) -> page; None: there is no such page."""


class PageServer:
    """Serves from construction to `close`. `port` is the one that was bound.

    UserError when `host` is no address of this machine or the port is taken; `keys` names the settings to blame.
    """

    def __init__(
        self, host: str, port: int, answer: Answer, *, keys: tuple[str, str] = ("metrics.host", "metrics.port")
    ) -> None:
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            self._server = _server_class(family)((str(address[0]), int(address[1])), _handler(answer))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UserError(f"{keys[1]}={port}: the port is in use; choose another, or 0 for a free one") from None
            if error.errno == errno.EACCES:
                raise UserError(f"{keys[1]}={port}: not allowed; choose a port above 1023") from None
            reason = error.strerror or error
            raise UserError(f"{keys[0]}={host}: cannot bind there ({reason}); name a local address") from None
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="pages", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving and let the port go."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


def _server_class(family: int) -> type[ThreadingHTTPServer]:
    lock = threading.Lock()
    clients: dict[socket.socket, None] = {}  # oldest first

    class Server(ThreadingHTTPServer):
        address_family = family
        daemon_threads = True
        request_queue_size = 32

        def process_request(self, request: Any, client_address: Any) -> None:
            """Serve in a thread; with one client too many, the oldest is cut off, which ends its thread."""
            with lock, contextlib.suppress(OSError):  # it has gone by itself
                clients[request] = None
                if len(clients) > _MAX_CLIENTS:
                    oldest = next(iter(clients))
                    del clients[oldest]
                    oldest.shutdown(socket.SHUT_RDWR)
            super().process_request(request, client_address)

        def shutdown_request(self, request: Any) -> None:
            """Its thread is done with it."""
            with lock:
                clients.pop(request, None)
            super().shutdown_request(request)

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that goes away in the middle is no event."""

        def server_bind(self) -> None:
            """Bind, without the reverse look-up of HTTPServer, which waits for name servers."""
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(self.server_address)
            self.server_address = self.socket.getsockname()
            self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    return Server


def _handler(answer: Answer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _CLIENT_TIMEOUT_S
        server_version = "zeroq"
        sys_version = ""

        def do_GET(self) -> None:
            page = answer(self.path.partition("?")[0], dict(self.headers.items()))
            page = page or Page(b"not found\n", 404)
            with contextlib.suppress(OSError):
                self.send_response(page.status)
                headers = {"Content-Type": page.content_type, "Content-Length": str(len(page.body)), **page.headers}
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(page.body)

        def log_message(self, *_arguments: object) -> None:
            """Probes come every few seconds; nobody wants to read of them."""

    return Handler
