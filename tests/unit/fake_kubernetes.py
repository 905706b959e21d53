"""A small API server in this process, over real HTTP: scale, lease, pods, logs, port forwarding, workloads, ConfigMaps.

It keeps objects with resource versions, plays the part of the ReplicaSet controller (not ready first, then by deletion
cost), enforces RBAC rules if it is given some, and does wrong on demand: see `Fault`. `requests` has what was asked.
"""

from __future__ import annotations

import copy
import json
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import yaml

from tests.unit.fake_port_forward import forward

Object = dict[str, Any]
COST = "controller.kubernetes.io/pod-deletion-cost"
_PATH = re.compile(
    r"/(?:api|apis)/(?:(?P<group>[a-z0-9.-]+)/)?v1/namespaces/(?P<ns>[^/]+)/(?P<resource>[a-z]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<sub>[a-z]+))?"
)


CUT = -1


@dataclass
class Fault:
    """What to do wrong, `times` times, to requests of this method whose path contains `path`.

    `status` 0: close the connection without an answer; CUT: do what is asked, and send half of the answer.
    """

    status: int
    method: str = ""
    path: str = ""
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "injected"


@dataclass(frozen=True)
class Asked:
    """One request, in the words of RBAC."""

    verb: str
    group: str
    resource: str
    name: str


class FakeKubernetes:
    """The server. A context manager. `rules`: of a Role; None allows everything."""

    def __init__(self, namespace: str = "zeroq", rules: list[Object] | None = None) -> None:
        self.namespace, self.rules = namespace, rules
        self.objects: dict[tuple[str, str], Object] = {}
        self.faults: list[Fault] = []
        self.requests: list[Asked] = []
        self.logs: dict[str, list[str | None]] = {}
        self.served: dict[tuple[str, int], Callable[[str], tuple[int, str]]] = {}
        self.on_scale: Callable[[str, int], None] = lambda name, replicas: None
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self._version = 0
        self._pods_made = 0
        self._server = _Server(("127.0.0.1", 0), _handler_of(self))
        serve = self._server.serve_forever
        self._thread = threading.Thread(target=serve, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def __enter__(self) -> FakeKubernetes:
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def kubeconfig(self, folder: Path) -> Path:
        """A kubeconfig that names this server."""
        path = folder / "kubeconfig"
        tree = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "fake", "user": {"token": "t"}}],
        }
        path.write_text(yaml.safe_dump(tree))
        return path

    # -------------------------------------------------------------- objects

    def put(self, resource: str, body: Object) -> Object:
        """Make or replace an object."""
        with self.lock:
            self._version += 1
            body = copy.deepcopy(body)
            body["metadata"] |= {"namespace": self.namespace, "resourceVersion": str(self._version)}
            self.objects[resource, body["metadata"]["name"]] = body
            return body

    def get(self, resource: str, name: str) -> Object:
        return self.objects[resource, name]

    def add_deployment(self, name: str, replicas: int, component: str, image: str = "zeroq/actor:0.1.0") -> None:
        """A Deployment with its pods."""
        self._add_workload("deployments", name, replicas, component, image)

    def add_statefulset(self, name: str, replicas: int, component: str, image: str = "zeroq/control:0.1.0") -> None:
        """A StatefulSet with its pods."""
        self._add_workload("statefulsets", name, replicas, component, image)

    def add_lease(self, name: str = "zeroq-autoscaler") -> None:
        """A Lease as the manifests have it: without a spec."""
        self.put("leases", {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}})

    def pods(self, component: str) -> list[str]:
        """Names of a component's pods, oldest first."""
        with self.lock:
            found = [o for (r, _), o in self.objects.items() if r == "pods" and _component(o) == component]
        return [pod["metadata"]["name"] for pod in sorted(found, key=lambda p: p["metadata"]["creationTimestamp"])]

    def set_ready(self, pod: str, ready: bool) -> None:
        self.get("pods", pod)["status"]["conditions"] = [{"type": "Ready", "status": str(ready)}]

    def replicas(self, deployment: str) -> int:
        return int(self.get("deployments", deployment)["spec"]["replicas"])

    def set_replicas(self, deployment: str, replicas: int) -> None:
        """What a scale changes, and what the controller makes of it."""
        with self.lock:
            found = self.get("deployments", deployment)
            found["spec"]["replicas"] = replicas
            self.put("deployments", found)
            self._reconcile(found)
        self.on_scale(deployment, replicas)

    def _add_workload(self, resource: str, name: str, replicas: int, component: str, image: str) -> None:
        labels = {"app.kubernetes.io/component": component, "app.kubernetes.io/part-of": "zeroq"}
        pod = {
            "terminationGracePeriodSeconds": 90,
            "containers": [{"name": component.removesuffix("-models"), "image": image}],
            **({"initContainers": [{"name": "prepare", "image": image}]} if component == "learner" else {}),
        }
        body = {
            "metadata": {"name": name, "generation": 1},
            "spec": {"replicas": replicas, "template": {"metadata": {"labels": labels}, "spec": pod}},
            "status": {"readyReplicas": replicas, "updatedReplicas": replicas, "observedGeneration": 1},
        }
        self.put(resource, body)
        self._reconcile(body)

    def _reconcile(self, workload: Object) -> None:
        """As the ReplicaSet controller does: who is not ready goes first, then who has the least deletion cost."""
        template = workload["spec"]["template"]
        component = template["metadata"]["labels"]["app.kubernetes.io/component"]
        have = [self.get("pods", name) for name in self.pods(component)]
        for _ in range(workload["spec"]["replicas"] - len(have)):
            self._pods_made += 1
            self.put(
                "pods",
                {
                    "metadata": {
                        "name": f"{workload['metadata']['name']}-{self._pods_made}",
                        "labels": dict(template["metadata"]["labels"]),
                        "creationTimestamp": f"2026-01-01T00:00:{self._pods_made:02d}Z",
                    },
                    "spec": copy.deepcopy(template["spec"]),
                    "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
                },
            )
        have.sort(key=lambda pod: (_ready(pod), int((pod["metadata"].get("annotations") or {}).get(COST, 0))))
        for pod in have[: max(0, len(have) - workload["spec"]["replicas"])]:
            del self.objects["pods", pod["metadata"]["name"]]

    # -------------------------------------------------------------- requests

    def fault_for(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method in ("", method) and fault.path in path:
                    fault.times -= 1
                    return fault
        return None

    def refuse(self, asked: Asked) -> str | None:
        """Why RBAC forbids it; None if a rule allows it."""
        self.requests.append(asked)
        if self.rules is None or any(_allows(rule, asked) for rule in self.rules):
            return None
        return f'{asked.resource} "{asked.name}" is forbidden: User "u" cannot {asked.verb} resource'

    def answer(self, asked: Asked, path: re.Match[str], query: dict[str, list[str]], body: Any, kind: str) -> Object:
        """The answer of an ordinary request; KeyError: 404, _Conflict: 409."""
        resource, name, sub = path["resource"], path["name"], path["sub"]
        with self.lock:
            if asked.verb == "list":
                wanted = dict(item.split("=", 1) for item in query.get("labelSelector", [""])[0].split(",") if item)
                items = [o for (r, _), o in self.objects.items() if r == resource]
                return {"items": [o for o in items if wanted.items() <= (o["metadata"].get("labels") or {}).items()]}
            if asked.verb == "create":
                if (resource, body["metadata"]["name"]) in self.objects:
                    raise _Conflict
                return self.put(resource, body)
            found = self.objects[resource, name]
            given = ((body or {}).get("metadata") or {}).get("resourceVersion")
            if given is not None and given != found["metadata"]["resourceVersion"]:
                raise _Conflict
            if asked.verb == "get":
                return self._scale_of(found) if sub == "scale" else found
            if asked.verb == "update":
                return self.put(resource, body)
            if sub == "scale":
                self.set_replicas(name, body["spec"]["replicas"])
                return self._scale_of(self.objects[resource, name])
            if "strategic" in kind and resource == "leaderworkersets":
                raise _Unsupported  # the API server knows no merge keys of custom resources
            merged = merge(found, body, strategic="strategic" in kind)
            return self.put(resource, merged)

    def _scale_of(self, deployment: Object) -> Object:
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        selector = f"app.kubernetes.io/component={labels['app.kubernetes.io/component']}"
        replicas = deployment["spec"]["replicas"]
        metadata = {k: deployment["metadata"][k] for k in ("name", "namespace", "resourceVersion")}
        spec = {"replicas": replicas} if replicas else {}  # the API leaves a 0 out
        return {"kind": "Scale", "metadata": metadata, "spec": spec, "status": {"selector": selector}}


class _Conflict(Exception):
    pass


class _Unsupported(Exception):
    pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are gone."""


def merge(old: Any, new: Any, *, strategic: bool) -> Any:
    """JSON merge patch; `strategic`: lists of objects that have names are merged by them."""
    if isinstance(old, dict) and isinstance(new, dict):
        merged = dict(old)
        for key, value in new.items():
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = merge(old.get(key), value, strategic=strategic)
        return merged
    if strategic and isinstance(old, list) and isinstance(new, list):
        by_name = {item["name"]: item for item in new}
        return [merge(item, by_name.get(item["name"], item), strategic=True) for item in old]
    return new


def _handler_of(fake: FakeKubernetes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement

        def log_message(self, *_: Any) -> None:
            """Quiet."""

        def _serve(self) -> None:
            url = urlparse(self.path)
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            fault = fake.fault_for(self.command, url.path)
            self.cut = fault is not None and fault.status == CUT
            if fault is not None and not self.cut:
                if fault.status == 0:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self._reply(fault.status, {"kind": "Status", "message": fault.message}, fault.headers)
                return
            path = _PATH.fullmatch(url.path)
            if path is None:
                self._reply(404, {"message": f"no such path {url.path}"})
                return
            asked = _asked(self.command, path)
            why = fake.refuse(asked)
            if why is not None:
                self._reply(403, {"kind": "Status", "message": why})
            elif path["sub"] == "log":
                self._log(path["name"], parse_qs(url.query))
            elif path["sub"] == "portforward":
                port = int(parse_qs(url.query)["ports"][0])
                forward(self, port, fake.served.get((path["name"], port)))
            else:
                self._ordinary(asked, path, parse_qs(url.query), body)

        do_GET = do_PUT = do_PATCH = do_POST = _serve

        def _ordinary(self, asked: Asked, path: re.Match[str], query: dict[str, list[str]], body: Any) -> None:
            try:
                answer = fake.answer(asked, path, query, body, self.headers.get("Content-Type") or "")
            except KeyError:
                self._reply(404, {"kind": "Status", "message": f'{path["resource"]} "{path["name"]}" not found'})
            except _Conflict:
                self._reply(409, {"kind": "Status", "message": "the object has been modified"})
            except _Unsupported:
                self._reply(415, {"kind": "Status", "message": "the body of the request was in an unknown format"})
            else:
                self._reply(200, answer)

        def _reply(self, status: int, body: Object, headers: dict[str, str] | None = None) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if self.cut else data)
            if self.cut:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

        def _log(self, pod: str, query: dict[str, list[str]]) -> None:
            """All lines that are there; with follow, those that come, until None (end) is among them."""
            if ("pods", pod) not in fake.objects:
                self._reply(404, {"message": f'pods "{pod}" not found'})
                return
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            follow = query.get("follow") == ["true"]
            lines = fake.logs.setdefault(pod, [])
            place = 0 if "sinceSeconds" in query else max(0, len(lines) - int(query.get("tailLines", ["1000"])[0]))
            while not fake.closing.is_set():
                if place < len(lines):
                    line = lines[place]
                    place += 1
                    if line is None:
                        lines.remove(None)
                        self.close_connection = True
                        self.connection.shutdown(socket.SHUT_RDWR)  # broken off: no final chunk
                        return
                    data = (line if query.get("timestamps") == ["true"] else line.partition(" ")[2]).encode() + b"\n"
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                    self.wfile.flush()
                elif not follow:
                    break
                else:
                    fake.closing.wait(0.01)
            self.wfile.write(b"0\r\n\r\n")

    return Handler


def _asked(method: str, path: re.Match[str]) -> Asked:
    verbs = {"GET": "get" if path["name"] else "list", "PUT": "update", "PATCH": "patch", "POST": "create"}
    resource = f"{path['resource']}/{path['sub']}" if path["sub"] else path["resource"]
    return Asked(verbs[method], path["group"] or "", resource, path["name"] or "")


def _allows(rule: Object, asked: Asked) -> bool:
    names = rule.get("resourceNames")
    return (
        asked.group in rule["apiGroups"]
        and asked.resource in rule["resources"]
        and asked.verb in rule["verbs"]
        and (not names or asked.name in names)
    )


def _component(pod: Object) -> str:
    return str(pod["metadata"]["labels"]["app.kubernetes.io/component"])


def _ready(pod: Object) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"]["conditions"])
