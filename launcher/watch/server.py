"""Owns the page's server: loopback only, nothing that changes the run.

/BOARD/RANGE         the page (/ is /overview/all)
/body/BOARD/RANGE    its changing part (/body/: of /)
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Iterator, Mapping

from common.pages import Page, PageServer
from launcher.panels import BOARDS
from launcher.watch.page import RANGES, SCRIPT, STYLE, render, render_body
from launcher.watch.watcher import Watcher

HOST = "127.0.0.1"


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# The page runs our script and no other: data that found a way through the escaping would stay text.
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; script-src {_digest(SCRIPT)}; style-src {_digest(STYLE)}; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


@contextlib.contextmanager
def serving(watcher: Watcher, port: int = 0) -> Iterator[str]:
    """Serve the page while the block runs; its URL. Port 0: a free one. UserError when the port cannot be had."""
    addresses: set[str] = set()

    def answer(path: str, headers: Mapping[str, str]) -> Page | None:
        if headers.get("Host") not in addresses:  # a name of somebody else's that points here
            return Page(b"this page is served to this machine only\n", 403)
        return _answer(watcher, path)

    server = PageServer(HOST, port, answer, keys=("--html", "--port"))
    addresses |= {f"{HOST}:{server.port}", f"localhost:{server.port}"}
    try:
        yield f"http://{HOST}:{server.port}/"
    finally:
        server.close()


def _answer(watcher: Watcher, path: str) -> Page | None:
    make, rest = (render_body, path.removeprefix("/body")) if path.startswith("/body/") else (render, path)
    parts = ["overview", "all"] if rest == "/" else rest.strip("/").split("/")
    board = next((board for board in BOARDS if board.name == parts[0]), None)
    if board is None or len(parts) != 2 or parts[1] not in RANGES:
        return None
    return Page(make(watcher, board, parts[1]).encode(), content_type="text/html; charset=utf-8", headers=HEADERS)
