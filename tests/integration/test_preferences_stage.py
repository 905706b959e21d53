"""Preferences from a checkpoint's own responses, judged behind an endpoint; a reward model trained on them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes.pipeline.manifest import read_manifest
from recipes.stages.corpus import HelpfulPair, SafetyLabel, read_rows
from recipes.stages.text import split_response
from tests.integration.river_rig import ROOT

pytestmark = pytest.mark.timeout(600)
NUM_PROMPTS, QUERIES = 24, 2
HELPFUL_SAMPLES, SAFETY_SAMPLES = 12, 4


class Judge(ThreadingHTTPServer):
    """Prefers the answer that comes first in the dictionary, and holds responses of an odd length to be unsafe."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: Judge

    def do_POST(self) -> None:
        prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
        self.server.asked.append(prompt)
        parts = dict(re.findall(r"<(A|B|response)>\n(.*?)\n</\1>", prompt, re.DOTALL))
        if "response" in parts:
            verdict = "UNSAFE" if len(parts["response"]) % 2 else "SAFE"
        else:
            verdict = "A>>B" if parts["A"] < parts["B"] else "B>>A"
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": f"VERDICT: {verdict}"},
        }
        reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def judge() -> Iterator[Judge]:
    server = Judge()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


def configuration(folder: Path, judge: Judge) -> Path:
    """Twenty-four prompts of a general kind to a model of random weights, which ends one response in four by chance: of
    twelve to a prompt that makes some thirty pairs."""
    prompts = [{"id": f"p{n}", "prompt": f"Tell me about {n}.", "kind": "general"} for n in range(NUM_PROMPTS)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))

    def source(samples: int) -> dict[str, Any]:
        sampling = {"samples": samples, "max_tokens": 256}
        return {"problems": [{"path": str(folder / "prompts.jsonl")}], "sampling": sampling}

    cpu = {"device": "cpu", "dtype": "float32"}
    tree: dict[str, Any] = {
        "run": {"dir": str(folder), "name": "made"},
        "defaults": {
            "run": {
                "data": {"train": "prompts.jsonl", "template": "bare"},
                "learner": cpu,
                "actor": {**cpu, "enforce_eager": True, "kv_cache_gib": 0.25, "max_model_len": 512},
            },
            "reward_model": {"learner": {**cpu, "num_threads": 1}},
        },
        "stages": {
            "preferences": {
                "model": str(folder / "model"),
                "helpful": source(HELPFUL_SAMPLES),
                "safety": source(SAFETY_SAMPLES),
                "judging": {"queries": QUERIES, "max_length_ratio": None, "length_tolerance": None},
                "endpoint": {"base_url": f"http://127.0.0.1:{judge.server_address[1]}/v1", "model": "m"},
            },
            "reward_model": {
                "model": str(folder / "model"),
                "helpful": "@preferences.helpful",
                "safety": "@preferences.safety",
                "helpful_job": {"reward_model": {"epochs": 1, "batch_size": 8, "lr": 1e-4}},
                "safety_job": {"reward_model": {"epochs": 1, "batch_size": 8, "lr": 1e-4}},
            },
        },
    }
    path = folder / "preferences.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def zeroq(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launcher", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_a_judges_preferences_become_reward_models(tmp_path: Path, judge: Judge) -> None:
    assert zeroq("init-model", str(tmp_path / "model")).returncode == 0
    config = configuration(tmp_path, judge)
    done = zeroq("stage", "preferences", str(config))
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "made" / "stages" / "preferences"
    pairs, labels = (
        read_rows(folder / "helpful.parquet", HelpfulPair),
        read_rows(folder / "safety.parquet", SafetyLabel),
    )
    manifest = read_manifest(folder)
    assert manifest is not None
    found = manifest.figures
    assert found["helpful_kept"] == len(pairs) > 3
    assert 2 * (len(pairs) + found["helpful_equal"]) + found["helpful_unusable"] <= HELPFUL_SAMPLES * NUM_PROMPTS
    assert len(labels) + found["safety_cut_off"] == SAFETY_SAMPLES * NUM_PROMPTS
    assert len(judge.asked) == QUERIES * found["helpful_judged"] + len(labels)
    for pair in pairs:
        chosen, rejected = (split_response(text, pair.prompt).summary for text in (pair.chosen, pair.rejected))
        assert chosen < rejected
        assert pair.margin == 2.0
    for label in labels:
        assert label.label == 1 - len(split_response(label.response, label.prompt).text.strip()) % 2
    (folder / "manifest.json").unlink()  # as if it had been killed at the end: nothing is sampled or asked again
    num_asked = len(judge.asked)
    assert zeroq("stage", "preferences", str(config)).returncode == 0
    assert len(judge.asked) == num_asked
    done = zeroq("stage", "reward_model", str(config))
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = read_manifest(tmp_path / "made" / "stages" / "reward_model")
    assert manifest is not None
    assert set(manifest.outputs) == {"helpful", "safety"}
    assert manifest.inputs.keys() == {"@preferences.helpful", "@preferences.safety"}
