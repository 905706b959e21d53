"""A Kubernetes API server for `kubectl apply`, as far as that needs one: discovery, GET, POST, PATCH; no controllers.

It refuses what the real one would, as far as the manifests alone decide it: fields that the schema of its release does
not know, objects of a namespace that is not there, an object that is there already, annotations beyond 256 KiB, kinds
that are not installed. A PATCH is merged key by key, and recorded if it changes anything.
"""

from __future__ import annotations

import contextlib
import json
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import kubernetes_validate

Object = dict[str, Any]
MAX_ANNOTATIONS = 256 * 1024

KINDS: dict[str, list[tuple[str, str, bool]]] = {
    "v1": [
        ("Namespace", "namespaces", False),
        ("ConfigMap", "configmaps", True),
        ("LimitRange", "limitranges", True),
        ("PersistentVolumeClaim", "persistentvolumeclaims", True),
        ("ResourceQuota", "resourcequotas", True),
        ("Secret", "secrets", True),
        ("Service", "services", True),
        ("ServiceAccount", "serviceaccounts", True),
    ],
    "apps/v1": [("Deployment", "deployments", True), ("StatefulSet", "statefulsets", True)],
    "batch/v1": [("Job", "jobs", True)],
    "coordination.k8s.io/v1": [("Lease", "leases", True)],
    "networking.k8s.io/v1": [("NetworkPolicy", "networkpolicies", True)],
    "node.k8s.io/v1": [("RuntimeClass", "runtimeclasses", False)],
    "policy/v1": [("PodDisruptionBudget", "poddisruptionbudgets", True)],
    "rbac.authorization.k8s.io/v1": [("Role", "roles", True), ("RoleBinding", "rolebindings", True)],
    "scheduling.k8s.io/v1": [("PriorityClass", "priorityclasses", False)],
}
"""Kind, plural, whether it lives in a namespace: by group and version."""


@dataclass
class Cluster:
    """What is stored, by path, and what was done to it."""

    release: str
    stored: dict[str, Object] = field(default_factory=dict)
    created: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)


class Refusal(Exception):
    """An answer that is no success: HTTP code and message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Handler(BaseHTTPRequestHandler):
    """One request."""

    cluster: Cluster
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # one packet an answer: two would wait for each other (Nagle, delayed acknowledgement)

    def log_message(self, *_: object) -> None:
        """Silent."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        found = discovery(path)
        if found is None:
            found = self.cluster.stored.get(path)
        self._answer(200, found) if found is not None else self._refuse(404, f"{path} not found")

    def do_POST(self) -> None:
        try:
            self._answer(201, create(self.cluster, self.path.partition("?")[0], self._body()))
        except Refusal as refusal:
            self._refuse(refusal.code, str(refusal))

    def do_PATCH(self) -> None:
        path = self.path.partition("?")[0]
        old = self.cluster.stored[path]
        self.cluster.stored[path] = merged(old, self._body())
        if self.cluster.stored[path] != old:
            self.cluster.changed.append(path)
        self._answer(200, self.cluster.stored[path])

    def _body(self) -> Object:
        return dict(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _refuse(self, code: int, message: str) -> None:
        reason = {404: "NotFound", 409: "AlreadyExists", 400: "BadRequest", 422: "Invalid"}[code]
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason}
        self._answer(code, {**status, "message": message})

    def _answer(self, code: int, value: Object) -> None:
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def merged(old: Object, patch: Object) -> Object:
    """`patch` put into `old`; null takes a key away."""
    both = {key: merged(value, patch[key]) for key, value in old.items() if isinstance(patch.get(key), dict)}
    return {key: value for key, value in {**old, **patch, **both}.items() if value is not None}


def create(cluster: Cluster, path: str, body: Object) -> Object:
    """Store a new object, or Refusal."""
    name = body["metadata"]["name"]
    parts = path.split("/")
    if "namespaces" in parts[:-1]:
        namespace = parts[parts.index("namespaces") + 1]
        if f"/api/v1/namespaces/{namespace}" not in cluster.stored:
            raise Refusal(404, f'namespaces "{namespace}" not found')
    place = f"{path}/{name}"
    if place in cluster.stored:
        raise Refusal(409, f"{place} already exists")
    try:
        kubernetes_validate.validate(body, cluster.release, strict=True)
    except kubernetes_validate.ValidationError as error:
        raise Refusal(400, f"strict decoding error: {error.message}") from None
    size = sum(len(key) + len(value) for key, value in body["metadata"].get("annotations", {}).items())
    if size > MAX_ANNOTATIONS:
        raise Refusal(422, f"metadata.annotations: Too long: must have at most {MAX_ANNOTATIONS} bytes")
    cluster.stored[place] = body
    cluster.created.append(place)
    return body


def discovery(path: str) -> Object | None:
    """Which kinds there are, and that the server checks fields itself."""
    match path.strip("/").split("/"):
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"]}
        case ["apis"]:
            groups = [version for version in KINDS if "/" in version]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(version) for version in groups]}
        case ["api", "v1"]:
            return _resources("v1")
        case ["apis", group, version] if f"{group}/{version}" in KINDS:
            return _resources(f"{group}/{version}")
        case ["version"]:
            return {"major": "1", "minor": "36", "gitVersion": "v1.36.0"}
        case ["openapi", "v3"]:
            return {"paths": {_root(v): {"serverRelativeURL": f"/openapi/v3/{_root(v)}?hash=1"} for v in KINDS}}
        case ["openapi", "v3", *rest]:
            return _openapi("/".join(rest))
        case _:
            return None


def _root(version: str) -> str:
    return f"apis/{version}" if "/" in version else f"api/{version}"


def _group(version: str) -> Object:
    group, _, number = version.partition("/")
    entry = {"groupVersion": version, "version": number}
    return {"name": group, "versions": [entry], "preferredVersion": entry}


def _resources(version: str) -> Object:
    verbs = ["create", "get", "list", "patch"]
    kinds = [
        {"name": plural, "singularName": kind.lower(), "namespaced": namespaced, "kind": kind, "verbs": verbs}
        for kind, plural, namespaced in KINDS[version]
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": kinds}


def _openapi(root: str) -> Object:
    version = root.removeprefix("apis/").removeprefix("api/")
    group, _, number = version.rpartition("/")
    strict = {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
    paths = {
        f"/{root}/{plural}/{{name}}": {
            "patch": {
                "parameters": [strict],
                "responses": {},
                "x-kubernetes-group-version-kind": {"group": group, "version": number, "kind": kind},
            }
        }
        for kind, plural, _ in KINDS[version]
    }
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.36.0"}, "paths": paths}


@contextlib.contextmanager
def serving(cluster: Cluster) -> Iterator[str]:
    """The server's URL, on a free port of this machine, until the block ends."""
    handler = type("BoundHandler", (Handler,), {"cluster": cluster})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="fake-api-server")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
