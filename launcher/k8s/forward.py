"""One HTTP request to a pod, through the API server's port forwarding.

Not through its proxy: a forwarded connection begins inside the pod, so no NetworkPolicy needs a hole for the control
plane.
"""

from __future__ import annotations

import contextlib
import http.client
import re
from collections.abc import Iterator
from typing import Any

import websocket
from kubernetes import client as api
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import portforward

from launcher.k8s.client import REQUEST_TIMEOUT_S, Cluster
from launcher.k8s.errors import Access, Unavailable, of_response

_HANDSHAKE = re.compile(r"Handshake status (\d{3})")


def get(cluster: Cluster, pod: str, port: int, path: str) -> str:
    """The body of `GET path` from a pod's port. Unavailable, Forbidden or Missing otherwise; never waits long."""
    where = f"pod {cluster.namespace}/{pod}, port {port}"
    with forwarded(cluster, pod, port) as (connection, forward):
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            answer = connection.getresponse()
            body = answer.read().decode("utf-8", errors="replace")
        except (OSError, http.client.HTTPException) as error:
            said = forward.error(port) or str(error) or type(error).__name__
            raise Unavailable(f"{where}: nothing serves {path} there: {' '.join(said.split())}") from None
    if answer.status != 200:
        raise Unavailable(f"{where}: {path} answers {answer.status}")
    return body


@contextlib.contextmanager
def forwarded(cluster: Cluster, pod: str, port: int) -> Iterator[tuple[http.client.HTTPConnection, Any]]:
    """An HTTP connection over a forwarded port, and the forwarding."""
    access = Access(
        "get, create", "pods/portforward", cluster.namespace, pod
    )  # older servers ask for get, newer for both
    core = api.CoreV1Api(cluster.connection)
    before = websocket.getdefaulttimeout()
    websocket.setdefaulttimeout(REQUEST_TIMEOUT_S)  # the official client sets none
    try:
        forward = portforward(core.connect_get_namespaced_pod_portforward, pod, cluster.namespace, ports=str(port))
    except ApiException as error:
        status = _HANDSHAKE.search(str(error.reason))
        if status is not None:
            raise of_response(access, int(status.group(1)), None, None) from None
        raise Unavailable(f"{cluster.server}: cannot forward port {port} of {pod}: {error.reason}") from None
    finally:
        websocket.setdefaulttimeout(before)
    connection = http.client.HTTPConnection(pod, timeout=REQUEST_TIMEOUT_S)
    try:
        connection.sock = forward.socket(port)
        connection.sock.settimeout(REQUEST_TIMEOUT_S)
        yield connection, forward
    finally:
        connection.close()
        forward.close()
