"""Requests to an API server: the official client's connection and paths, our errors, deadlines and back-off.

Objects are plain dictionaries as the API has them (camelCase), in and out: the client's own model classes refuse what a
newer server adds. Every request has a deadline. What a later attempt can mend (429, 5xx, no connection) is tried again
within `patience_s`, waiting as long as the server asks for, or longer each time with some jitter.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import urllib3
import yaml
from kubernetes import client as api
from kubernetes import config as kube_config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from common.errors import UserError
from launcher.k8s.errors import Access, Unavailable, Untrusted, of_response
from launcher.k8s.names import NAMESPACE, Kind

Object = dict[str, Any]
Answer = TypeVar("Answer")
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
REQUEST_TIMEOUT_S = 5.0
PATIENCE_S = 30.0
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 15.0
_SILENT_LOG_S = 600.0
_CUT_OFF = re.compile(r"EOF|timed out|reset", re.IGNORECASE)
"""TLS errors of a connection that ended, as against those of a certificate."""
_GANGS = {"group": "leaderworkerset.x-k8s.io", "version": "v1", "plural": "leaderworkersets"}
_SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

log = logging.getLogger(__name__)


class Cluster:
    """A connection to one namespace. A context manager.

    `patience_s`: how long a request may be tried again before Unavailable is raised; 0 for callers that have a loop of
    their own. `wait` sleeps (tests). `by`: where the connection's settings come from, for people.
    """

    def __init__(
        self,
        connection: api.ApiClient,
        namespace: str,
        *,
        patience_s: float,
        wait: Callable[[float], None] = time.sleep,
        by: str = "the kubeconfig",
    ) -> None:
        self._by = by
        self.connection, self.namespace = connection, namespace
        self._patience_s, self._wait = patience_s, wait
        self._core = api.CoreV1Api(connection)
        self._apps = api.AppsV1Api(connection)
        self._coordination = api.CoordinationV1Api(connection)
        self._custom = api.CustomObjectsApi(connection)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    @property
    def server(self) -> str:
        """The API server's address."""
        return str(self.connection.configuration.host)

    # -------------------------------------------------------------- objects

    def config_map(self, name: str) -> Object:
        """A ConfigMap."""
        return self._ask(Access("get", "configmaps", self.namespace, name), self._core.read_namespaced_config_map, name)

    def patch_config_map(self, name: str, body: Object) -> Object:
        """Merge `body` into a ConfigMap."""
        access = Access("patch", "configmaps", self.namespace, name)
        return self._patch(access, self._core.patch_namespaced_config_map, name, body, MERGE)

    def create_config_map(self, body: Object) -> Object:
        """Make a ConfigMap."""
        access = Access("create", "configmaps", self.namespace)
        return self._ask(access, self._core.create_namespaced_config_map, body=body)

    def workload(self, kind: Kind, name: str) -> Object:
        """A Deployment, StatefulSet or LeaderWorkerSet."""
        if kind == "leaderworkerset":
            access = Access("get", f"{kind}s", self.namespace, name, _GANGS["group"])
            return self._ask(access, self._custom.get_namespaced_custom_object, name, **_GANGS)
        access = Access("get", f"{kind}s", self.namespace, name, "apps")
        return self._ask(access, getattr(self._apps, f"read_namespaced_{_method(kind)}"), name)

    def patch_workload(self, kind: Kind, name: str, body: Object) -> Object:
        """Merge `body` into a Deployment or StatefulSet, containers by name, or into a LeaderWorkerSet, lists whole."""
        if kind == "leaderworkerset":
            access = Access("patch", f"{kind}s", self.namespace, name, _GANGS["group"])
            change = functools.partial(self._custom.patch_namespaced_custom_object, **_GANGS)
            return self._patch(access, change, name, body, MERGE)
        access = Access("patch", f"{kind}s", self.namespace, name, "apps")
        return self._patch(access, getattr(self._apps, f"patch_namespaced_{_method(kind)}"), name, body, STRATEGIC)

    def scale(self, deployment: str) -> Object:
        """The Scale of a Deployment."""
        access = Access("get", "deployments/scale", self.namespace, deployment, "apps")
        return self._ask(access, self._apps.read_namespaced_deployment_scale, deployment)

    def patch_scale(self, deployment: str, body: Object) -> Object:
        """Merge `body` into the Scale of a Deployment; Conflict if it names a resourceVersion that has passed."""
        access = Access("patch", "deployments/scale", self.namespace, deployment, "apps")
        return self._patch(access, self._apps.patch_namespaced_deployment_scale, deployment, body, MERGE)

    def pods(self, selector: str) -> list[Object]:
        """Pods with these labels."""
        access = Access("list", "pods", self.namespace)
        found = self._ask(access, self._core.list_namespaced_pod, label_selector=selector)
        return list(found.get("items") or [])

    def patch_pod(self, name: str, body: Object) -> Object:
        """Merge `body` into a pod."""
        access = Access("patch", "pods", self.namespace, name)
        return self._patch(access, self._core.patch_namespaced_pod, name, body, MERGE)

    def lease(self, name: str) -> Object:
        """A Lease."""
        access = Access("get", "leases", self.namespace, name, "coordination.k8s.io")
        return self._ask(access, self._coordination.read_namespaced_lease, name)

    def replace_lease(self, name: str, body: Object) -> Object:
        """Write a Lease; Conflict if its resourceVersion has passed."""
        access = Access("update", "leases", self.namespace, name, "coordination.k8s.io")
        return self._ask(access, self._coordination.replace_namespaced_lease, name, body=body)

    def pod_log(self, pod: str, **options: Any) -> LogStream:
        """A pod's log."""
        access = Access("get", "pods/log", self.namespace, pod)
        timeout = (REQUEST_TIMEOUT_S, _SILENT_LOG_S if options.get("follow") else 60.0)
        method = self._core.read_namespaced_pod_log
        response = self._patiently(lambda: self._send(access, method, pod, _request_timeout=timeout, **options))
        return LogStream(response, access, self.server)

    # -------------------------------------------------------------- requests

    def _patch(self, access: Access, method: Callable[..., Any], name: str, body: Object, kind: str) -> Object:
        return self._ask(access, method, name, body=body, _content_type=kind)

    def _ask(self, access: Access, method: Callable[..., Any], *args: Any, **options: Any) -> Object:
        return self._patiently(lambda: self._object(access, self._send(access, method, *args, **options)))

    def _object(self, access: Access, response: Any) -> Object:
        try:
            answer = json.loads(response.data)
        except (ValueError, urllib3.exceptions.HTTPError) as error:
            raise Unavailable(
                f"{self.server}: the answer to {access.verb} {access.target} is cut off: {error}"
            ) from None
        if not isinstance(answer, dict):
            raise Unavailable(f"{self.server}: no Kubernetes object in answer to {access.verb} {access.target}")
        return answer

    def _patiently(self, attempt_once: Callable[[], Answer]) -> Answer:
        """One request, again until it is answered whole or patience ends. Conflicts are the caller's to resolve."""
        begin, attempt = time.monotonic(), 0
        while True:
            try:
                return attempt_once()
            except Unavailable as error:
                wait_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0**attempt) * random.uniform(0.5, 1.0)
                wait_s = max(wait_s, error.retry_after_s or 0.0)
                if time.monotonic() - begin + wait_s > self._patience_s:
                    raise
                log.warning("%s; trying again in %.1f s", error, wait_s)
                self._wait(wait_s)
                attempt += 1

    def _send(self, access: Access, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        options.setdefault("_request_timeout", REQUEST_TIMEOUT_S)
        named = ("namespace",) if not access.name or access.verb == "create" else ("name", "namespace")
        given = dict(zip(named, (*args, self.namespace), strict=True))
        try:
            return method(**given, _preload_content=False, **options)
        except ApiException as error:
            if error.status:
                raise of_response(access, int(error.status), error.body, error.headers) from None
            text = f"{self.server}: cannot {access.verb} {access.target}: {_brief(error)}"
            if str(error.reason).startswith("SSLError") and not _CUT_OFF.search(str(error.reason)):
                raise Untrusted(f"{text}; see the cluster's server and certificate-authority in {self._by}") from None
            raise Unavailable(text) from None
        except ConfigException as error:  # the token is read anew every minute
            raise Unavailable(f"{self._by}: {_brief(error)}") from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unavailable(f"{self.server}: the API server does not answer: {_brief(error)}") from None


class LogStream:
    """Lines of a pod's log, without line ends, as they come; ends with the stream. Unavailable when it breaks."""

    def __init__(self, response: Any, access: Access, server: str) -> None:
        self._response, self._access, self._server = response, access, server

    def __iter__(self) -> Iterator[bytes]:
        rest = b""
        try:
            for chunk in self._response.stream(amt=None, decode_content=True):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from lines
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:  # ValueError: it was broken off
            raise Unavailable(f"{self._server}: {self._access.target}: the stream broke: {_brief(error)}") from None
        finally:
            self._response.close()
        if rest:
            yield rest

    def break_off(self) -> None:
        """Have the thread that reads this come to an end, from another thread."""
        with contextlib.suppress(ValueError, RuntimeError, OSError):  # it has come to its end
            self._response.shutdown()


def connect(
    *,
    context: str | None = None,
    namespace: str | None = None,
    patience_s: float | None = None,
    in_cluster: bool = False,
) -> Cluster:
    """A connection by the kubeconfig ($KUBECONFIG, ~/.kube/config), or as the pod's service account.

    The namespace is the one given, else the pod's own, else `zeroq`. `patience_s` None: PATIENCE_S. UserError when
    there is no usable configuration.
    """
    configuration = api.Configuration()
    where = "this pod's service account" if in_cluster else "the kubeconfig ($KUBECONFIG or ~/.kube/config)"
    remedy = "set automountServiceAccountToken" if in_cluster else "name a good one, or check it with kubectl version"
    try:
        with _overheard() as errors:
            if in_cluster:
                kube_config.load_incluster_config(client_configuration=configuration)
            else:
                kube_config.load_kube_config(context=context, client_configuration=configuration)
        for path in (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file):
            if path and not os.access(path, os.R_OK):
                raise ConfigException(f"{path} cannot be read")
        if errors and not (configuration.api_key or configuration.cert_file):
            raise ConfigException(f"no credentials: {errors[-1]}")
    except (TypeError, AttributeError, KeyError) as error:
        told = f"it is none, or asks for a way of logging in that the official client does not know ({_brief(error)})"
        raise UserError(f"cannot use {where}: {told}; {remedy}") from None
    except (ConfigException, yaml.YAMLError, OSError, ValueError) as error:
        raise UserError(f"cannot use {where}: {_brief(error)}; {remedy}") from None
    configuration.retries = False  # ours know what the server asked for
    return Cluster(
        api.ApiClient(configuration),
        namespace or _own_namespace(),
        patience_s=PATIENCE_S if patience_s is None else patience_s,
        by=where,
    )


@contextlib.contextmanager
def _overheard() -> Iterator[list[str]]:
    """Errors that the official client only logs: after a credential plugin that failed it would ask as nobody."""
    heard: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(" ".join(record.getMessage().split()))

    ear, root = Ear(logging.ERROR), logging.getLogger()
    root.addHandler(ear)
    try:
        yield heard
    finally:
        root.removeHandler(ear)


def _own_namespace() -> str:
    try:
        return _SERVICE_ACCOUNT_NAMESPACE.read_text(encoding="utf-8").strip() or NAMESPACE
    except OSError:
        return NAMESPACE


def _method(kind: Kind) -> str:
    return "stateful_set" if kind == "statefulset" else kind


def _brief(error: BaseException) -> str:
    """The innermost reason, in one line."""
    reason: BaseException = error
    while isinstance(getattr(reason, "reason", None), BaseException):
        reason = reason.reason  # type: ignore[attr-defined]
    text = str(getattr(reason, "reason", None) or reason) or type(reason).__name__
    return " ".join(text.split())[:300]
