"""A Hugging Face hub in this process, for tests of uploads: repositories, branches, LFS objects, commits, and faults.

Speaks the requests that huggingface_hub 2.4 makes for `create_repo`, `create_branch` and `upload_folder` without xet.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_right"


@dataclass
class Hub:
    """What was uploaded. `files[repo][branch][path]` are contents; `faults`: (pattern of a path, answer), each used
    once; an answer is a status, or None for a connection that is dropped."""

    files: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    visibility: dict[str, str | None] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    faults: list[tuple[str, int | None]] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    before_commit: Callable[[], object] | None = None
    url: str = ""

    def __enter__(self) -> Hub:
        hub = self

        class Handler(_Handler):
            state = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _serve(self) -> None:
        hub, path = self.state, self.path.partition("?")[0]
        body = self._body()
        hub.requests.append(f"{self.command} {path}")
        for fault in hub.faults:
            if re.search(fault[0], path):
                hub.faults.remove(fault)
                if fault[1] is None:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                self._answer(fault[1], {"error": "out of order"})
                return
        if not path.startswith("/objects/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid credentials in Authorization header"})
            return
        status, value = self._act(path, body)
        self._answer(status, value)

    def _body(self) -> bytes:
        """The request's body, sent whole or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _act(self, path: str, body: bytes) -> tuple[int, Any]:
        hub = self.state
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if repo in hub.files:
                return 409, {"error": "exists", "url": f"{hub.url}/{repo}"}
            hub.files[repo], hub.visibility[repo] = {"main": {}}, asked.get("visibility")
            return 200, {"url": f"{hub.url}/{repo}"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(branch|preupload|commit)/(.+)", path):
            repo, action, branch = found.groups()
            if action == "branch":
                hub.files[repo].setdefault(branch, {})
                return 200, {}
            if branch not in hub.files.get(repo, {}):
                return 404, {"error": "no such branch"}
            return 200, self._preupload(body) if action == "preupload" else self._commit(repo, branch, body)
        if path.endswith(".git/info/lfs/objects/batch"):
            wanted = json.loads(body)["objects"]
            return 200, {"transfer": "basic", "objects": [self._object(item) for item in wanted]}
        if self.command == "PUT" and path.startswith("/objects/"):
            oid = path.rpartition("/")[2]
            assert hashlib.sha256(body).hexdigest() == oid
            hub.objects[oid] = body
            return 200, {}
        if path.startswith("/verify/"):
            return 200, {}
        return 404, {"error": f"the fake has no {path}"}

    def _object(self, item: dict[str, Any]) -> dict[str, Any]:
        known = {"oid": item["oid"], "size": item["size"]}
        if item["oid"] in self.state.objects:
            return known
        upload = {"href": f"{self.state.url}/objects/{item['oid']}"}
        return known | {"actions": {"upload": upload, "verify": {"href": f"{self.state.url}/verify/{item['oid']}"}}}

    def _preupload(self, body: bytes) -> dict[str, Any]:
        return {
            "files": [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular"}
                | {"shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
        }

    def _commit(self, repo: str, branch: str, body: bytes) -> dict[str, Any]:
        hub = self.state
        if hub.before_commit is not None:
            hub.before_commit()
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                hub.messages.append(value["summary"])
            elif item["key"] == "file":
                hub.files[repo][branch][value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                hub.files[repo][branch][value["path"]] = hub.objects[value["oid"]]
        oid = hashlib.sha1(body).hexdigest()
        return {"success": True, "commitOid": oid, "commitUrl": f"{hub.url}/{repo}/commit/{oid}", "hookOutput": ""}

    def _answer(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status == 401:
            self.send_header("X-Error-Message", str(value["error"]))
        self.end_headers()
        self.wfile.write(data)
