"""What tests of supervised jobs share: a small corpus, a configuration, and the weights of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from common.cli import Process
from common.config_file import dump_config
from common.job_config import SftConfig
from common.lifecycle import RunPaths, StopFlag

PAIRS = [
    (f"{i % 7} + {i % 5} =", f"<think>{'x ' * (i % 9)}</think><answer>{i % 7 + i % 5}</answer>") for i in range(50)
]


def write_corpus(path: Path, pairs: list[tuple[str, str]] = PAIRS) -> Path:
    """Parquet or JSON lines, by the name."""
    prompts, responses = [prompt for prompt, _ in pairs], [response for _, response in pairs]
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"prompt": prompts, "response": responses}), path)
    else:
        path.write_text("".join(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in pairs))
    return path


def job_config(model: Path, data: Path | str, **sections: Any) -> SftConfig:
    """A job on the CPU; `sections` are merged over it."""
    tree: dict[str, Any] = {
        "model": str(model),
        "learner": {
            "device": "cpu",
            "dtype": "float32",
            "num_threads": 1,
            "tokens_per_microbatch": 120,
            "checkpoint_every_steps": 4,
            "collective_timeout_s": 60.0,
        },
        "sft": {"data": str(data), "max_steps": 10, "batch_size": 8, "lr": 1e-2, "warmup_steps": 2},
    }
    for name, values in sections.items():
        tree[name] = {**tree.get(name, {}), **values} if isinstance(values, dict) else values
    return SftConfig.model_validate(tree)


def job_process(root: Path, config: SftConfig) -> Process[SftConfig]:
    """What `learner.supervised.run` is handed, in `root`."""
    root.mkdir(parents=True, exist_ok=True)
    paths = RunPaths(root)
    dump_config(config, paths.config)
    return Process(config, paths, "learner", StopFlag())


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint's model."""
    return load_file(checkpoint / "model.safetensors")


def optimizer_state(checkpoint: Path) -> dict[str, Any]:
    """Moments by parameter name."""
    state: dict[str, Any] = torch.load(checkpoint / "trainer" / "optimizer.pt", weights_only=True)["state"]
    return state
