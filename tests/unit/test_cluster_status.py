"""`zeroq status --k8s` and `zeroq logs` through the command line, and the rights that all cluster commands need."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from launcher.k8s.client import connect
from launcher.k8s.logs import print_logs
from tests.unit.cluster_rig import CONFIG, ROOT, WORKLOADS, Run, fake, zeroq
from tests.unit.fake_kubernetes import FakeKubernetes, Fault

__all__ = ["fake", "zeroq"]  # fixtures


METRICS = """\
# TYPE zeroq_broker_queue_depth gauge
zeroq_broker_queue_depth{queue="generate"} 3
zeroq_broker_queue_depth{queue="grade"} 41
# TYPE zeroq_broker_policy_version gauge
zeroq_broker_policy_version 17
"""


def test_status_shows_roles_troubles_and_queues(fake: FakeKubernetes, zeroq: Run) -> None:
    (broker,) = fake.pods("broker")
    fake.served[broker, 9400] = lambda path: (200, METRICS) if path == "/metrics" else (404, "")
    fake.get("deployments", "zeroq-actor")["status"]["readyReplicas"] = 1
    fake.get("leases", "zeroq-autoscaler")["spec"] = {"holderIdentity": "pod-7", "renewTime": "now"}
    stuck = fake.get("pods", fake.pods("actor")[1])
    stuck["status"] = {
        "phase": "Pending",
        "conditions": [
            {"type": "PodScheduled", "status": "False", "message": "0/3 nodes: Insufficient nvidia.com/gpu"}
        ],
    }
    stuck["spec"]["containers"][0]["image"] = "registry/team/zeroq/actor:0.0.9"
    code, out, _ = zeroq("status", "--k8s")
    assert code == 0
    (row,) = [line for line in out.splitlines() if line.startswith("│ actor ")]
    assert "1/2" in row
    assert "0.1.0" in row
    assert "Insufficient nvidia.com/gpu" in out
    assert "pod-7 acts" in out
    for what, value in (("waiting for an evaluator", "41"), ("policy version", "17"), ("waiting for an actor", "3")):
        (row,) = [line for line in out.splitlines() if what in line]
        assert value in row


def test_an_upgrade_that_left_a_role_behind_is_a_line(fake: FakeKubernetes, zeroq: Run) -> None:
    assert "not all of one tag" not in zeroq("status", "--k8s")[1]
    actor = fake.get("deployments", "zeroq-actor")
    for found in (actor["spec"]["template"], *(fake.get("pods", name) for name in fake.pods("actor"))):
        found["spec"]["containers"][0]["image"] = "registry/team/zeroq/actor:0.2.0"
    (line,) = [line for line in zeroq("status", "--k8s")[1].splitlines() if line.startswith("images: ")]
    assert "0.2.0: actor)" in line
    assert "0.1.0: broker, learner, evaluator" in line
    actor["spec"]["replicas"] = 0  # nobody to speak to the others
    assert "not all of one tag" not in zeroq("status", "--k8s")[1]


def test_status_needs_no_broker(fake: FakeKubernetes, zeroq: Run) -> None:
    code, out, _ = zeroq("status", "--k8s")
    assert code == 0
    assert "nothing serves /metrics there" in out
    fake.served[fake.pods("broker")[0], 9400] = lambda path: (200, "<html>{{{ what 1 2 3\n")
    code, out, _ = zeroq("status", "--k8s")
    assert code == 0
    assert "port 9400: no metrics" in out
    fake.objects = {key: body for key, body in fake.objects.items() if key[1] != fake.pods("broker")[0]}
    assert "no broker is running" in zeroq("status", "--k8s")[1]


def test_status_names_the_right_that_is_missing_for_the_queues(fake: FakeKubernetes, zeroq: Run) -> None:
    fake.faults.append(Fault(403, "GET", "portforward"))
    code, out, _ = zeroq("status", "--k8s")
    assert code == 0
    assert "resources: [pods/portforward]" in " ".join(out.split())


def test_status_of_an_empty_namespace(fake: FakeKubernetes, zeroq: Run) -> None:
    del fake.objects["statefulsets", "zeroq-broker"]
    code, out, _ = zeroq("status", "--k8s")
    assert code == 0
    assert "missing; kubectl apply -f deploy/k8s" in out
    fake.objects.clear()
    code, out, err = zeroq("status", "--k8s", "--namespace", "elsewhere")
    assert (code, out) == (2, "")
    assert "namespace elsewhere" in err
    assert "has nothing of zeroq" in err
    assert err.count("\n") == 1


def test_a_row_of_the_status_is_a_line_of_the_pipe(
    fake: FakeKubernetes, zeroq: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.get("pods", fake.pods("actor")[1])["spec"]["containers"][0]["image"] = "zeroq/actor:a-rather-long-tag-of-old"
    del fake.objects["statefulsets", "zeroq-learner"]
    monkeypatch.delenv("COLUMNS")
    rows = [line for line in zeroq("status", "--k8s")[1].splitlines() if line.startswith("│ ")]
    assert [row.split()[1] for row in rows] == list(WORKLOADS)


# ------------------------------------------------------------------ rights


def documented_rules(command: str) -> list[dict[str, Any]]:
    """The rules that docs/cluster_commands.md gives for a command."""
    rows = (ROOT / "docs" / "cluster_commands.md").read_text(encoding="utf-8").splitlines()
    (row,) = [row for row in rows if row.startswith(f"| `{command}` |") and ":" in row]
    rules = []
    for rule in row.split("|")[2].split(";"):
        group, resources, verbs = (part.strip().strip('"') for part in rule.split(":"))
        rules.append({"apiGroups": [group], "resources": resources.split(", "), "verbs": verbs.split(", ")})
    return rules


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("submit", ("submit", CONFIG, "seed=5")),
        ("submit --dry-run", ("submit", CONFIG, "learner.lr=5e-7", "--dry-run")),
        ("status --k8s", ("status", "--k8s")),
        ("logs", ("logs", "broker")),
    ],
)
def test_documented_rights_are_enough_and_none_too_many(
    fake: FakeKubernetes, zeroq: Run, command: str, arguments: tuple[Any, ...]
) -> None:
    fake.rules = documented_rules(command)
    fake.served[fake.pods("broker")[0], 9400] = lambda path: (200, METRICS)
    code, out, err = zeroq(*arguments)
    assert code == 0, err
    assert "needs the rule" not in out
    used = {(asked.group, asked.resource, asked.verb) for asked in fake.requests}
    given = {
        (r["apiGroups"][0], resource, verb) for r in fake.rules for resource in r["resources"] for verb in r["verbs"]
    }
    unused = given - used
    # made where there is none; asked for by newer servers
    assert unused <= {("", "configmaps", "create"), ("", "pods/portforward", "create")}


# ------------------------------------------------------------------ logs


def stamped(second: int, text: str) -> str:
    return f"2026-01-01T00:00:{second:02d}.5Z {text}"


def test_logs_of_a_role(fake: FakeKubernetes, zeroq: Run) -> None:
    first, second = fake.pods("actor")
    fake.logs = {first: [stamped(i, f"line {i}") for i in range(5)], second: [stamped(1, "other")]}
    code, out, _ = zeroq("logs", "actor", "--tail", "2")
    assert code == 0
    assert out.splitlines() == [f"{first}: line 3", f"{first}: line 4", f"{second}: other"]
    fake.logs[fake.pods("broker")[0]] = [stamped(1, "alone")]
    assert zeroq("logs", "broker")[1] == "alone\n"


def test_following_takes_up_broken_streams_and_new_pods(
    fake: FakeKubernetes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.k8s.logs.LIST_EVERY_S", 0.05)
    monkeypatch.setattr("launcher.k8s.logs.AGAIN_AFTER_S", 0.01)
    first = fake.pods("actor")[0]
    fake.set_replicas("zeroq-actor", 1)
    (first,) = fake.pods("actor")
    fake.logs[first] = [stamped(1, "one"), stamped(2, "two"), None, stamped(2, "two again"), stamped(3, "three")]
    stop, seen = threading.Event(), ""
    with connect() as cluster:
        follow = threading.Thread(
            target=print_logs,
            args=(cluster, "actor"),
            kwargs={"follow": True, "tail": 9, "previous": False, "stop": stop},
        )
        follow.start()
        deadline = time.monotonic() + 20
        while "later pod" not in seen and time.monotonic() < deadline:
            seen += capsys.readouterr().out
            if "three" in seen and len(fake.pods("actor")) == 1:
                fake.set_replicas("zeroq-actor", 2)
                fake.logs[fake.pods("actor")[1]] = [stamped(4, "later pod")]
            time.sleep(0.01)
        stop.set()
        fake.closing.set()  # ends the streams
        follow.join(timeout=10)
    assert [line.partition(": ")[2] for line in seen.splitlines()] == ["one", "two", "two again", "three", "later pod"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("actors",), "no such role; there are broker, learner, actor"),
        (("actor", "--tail", "-1"), "must not be negative"),
        (("actor", "-f", "--previous"), "do not grow"),
        (("grafana",), "no pods of role grafana"),
    ],
)
def test_bad_requests_for_logs(fake: FakeKubernetes, zeroq: Run, arguments: tuple[str, ...], says: str) -> None:
    code, _, err = zeroq("logs", *arguments)
    assert code == 2
    assert says in err


def test_a_missing_right_to_read_logs_is_named(fake: FakeKubernetes, zeroq: Run) -> None:
    fake.faults.append(Fault(403, "GET", "/log"))
    code, _, err = zeroq("logs", "broker")
    assert code == 2
    assert "resources: [pods/log]" in err
