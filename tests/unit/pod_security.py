"""Pod Security "restricted", as the API server's admission enforces it, over a pod's spec: what it refuses, a line
each (Pod Security Standards, v1.30 to v1.36). The rules of "baseline" are a part of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Spec = dict[str, Any]

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
}
SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
HOOKS = ("livenessProbe", "readinessProbe", "startupProbe", "postStart", "preStop")


def violations(spec: Spec) -> list[str]:
    """Why the API server would refuse a pod of this spec in a restricted namespace; empty if it would not."""
    return [*_pod(spec), *(line for container in _containers(spec) for line in _container(spec, container))]


def _containers(spec: Spec) -> list[Spec]:
    return [*spec.get("initContainers", []), *spec.get("containers", []), *spec.get("ephemeralContainers", [])]


def _pod(spec: Spec) -> Iterator[str]:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield f"{key} is set"
    for volume in spec.get("volumes", []):
        for kind in volume.keys() - {"name"}:
            if kind not in VOLUMES:
                yield f"volume {volume['name']} is a {kind}"
    context = spec.get("securityContext", {})
    for sysctl in context.get("sysctls", []):
        if sysctl["name"] not in SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    yield from _either(context, "the pod")


def _container(spec: Spec, container: Spec) -> Iterator[str]:
    name = container["name"]
    context, pod = container.get("securityContext", {}), spec.get("securityContext", {})
    if context.get("privileged"):
        yield f"{name}: privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: allowPrivilegeEscalation is not false"
    capabilities = context.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield f"{name}: capabilities are not dropped"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"{name}: capabilities are added"
    if context.get("procMount", "Default") != "Default":
        yield f"{name}: procMount"
    if not context.get("runAsNonRoot", pod.get("runAsNonRoot", False)):
        yield f"{name}: runAsNonRoot is not true"
    if context.get("seccompProfile", pod.get("seccompProfile", {})).get("type") not in ("RuntimeDefault", "Localhost"):
        yield f"{name}: no seccomp profile"
    for port in container.get("ports", []):
        if port.get("hostPort"):
            yield f"{name}: hostPort {port['hostPort']}"
    for hook in HOOKS:
        action = container.get(hook) or container.get("lifecycle", {}).get(hook) or {}
        for kind in ("httpGet", "tcpSocket"):
            if action.get(kind, {}).get("host"):
                yield f"{name}: {hook} names a host"
    yield from _either(context, name)


def _either(context: Spec, where: str) -> Iterator[str]:
    """Rules on fields that a pod and a container both have."""
    if context.get("runAsUser") == 0:
        yield f"{where}: runAsUser 0"
    if context.get("runAsNonRoot") is False:
        yield f"{where}: runAsNonRoot is false"
    if context.get("seccompProfile", {}).get("type", "RuntimeDefault") not in ("RuntimeDefault", "Localhost"):
        yield f"{where}: seccomp {context['seccompProfile']['type']}"
    if context.get("appArmorProfile", {}).get("type", "RuntimeDefault") not in ("RuntimeDefault", "Localhost"):
        yield f"{where}: AppArmor {context['appArmorProfile']['type']}"
    selinux = context.get("seLinuxOptions", {})
    if selinux.get("type", "") not in SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield f"{where}: SELinux options"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield f"{where}: a host process"
