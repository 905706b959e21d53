"""What the ranks of one machine are started with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from common.lifecycle import RunPaths
from learner import node_ranks
from learner.node_ranks import NodeRanks
from tests.learner_rig import make_config

TELL = "import json, sys; json.dump(sys.argv[1:], open(sys.argv[sys.argv.index('--out') + 1], 'w'))"


def test_a_generation_after_a_saved_checkpoint_goes_on_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`resume: never` and `resume: PATH` say where a run begins, not where each of its generations does."""
    monkeypatch.setattr(node_ranks, "LAUNCHER", (sys.executable, "-c", TELL))
    out = tmp_path / "arguments"
    checkpoint = tmp_path / "checkpoints" / "step-4"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").touch()  # there before: it is not this run's
    ranks = NodeRanks(
        make_config("tiny"),
        RunPaths(tmp_path),
        ["resume=never", "--out", str(out)],
        name="learner",
        node=0,
        num_nodes=1,
        host="127.0.0.1",
    )

    def told() -> list[str]:
        ranks.start(7)
        assert ranks._process is not None
        ranks._process.wait(20)
        assert ranks.poll() == 0
        return [argument for argument in json.loads(out.read_text()) if argument.startswith("resume=")]

    assert told() == ["resume=never"]
    (tmp_path / "checkpoints" / "step-8").mkdir()
    assert told() == ["resume=never"]  # half of one
    (tmp_path / "checkpoints" / "step-8" / "manifest.json").touch()
    assert told() == ["resume=never", "resume=auto"]
