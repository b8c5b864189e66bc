"""On GPUs: a whole run on the second of two, beside what the first one makes."""

import json

import pytest
import torch
from conftest import FEW, ColouredClips, ColouredWild

from ppfer import study
from ppfer.config import load_config
from ppfer.method import PIPELINE
from ppfer.run import Run

needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@needs_two
def test_a_run_on_the_second_gpu_leaves_the_first_alone(tmp_path):
    config = load_config("smoke", {"size": 16, "frames": 4, "nets.patch": 4, "val": 0.25, **FEW})
    stages = (*study.STAGES, ColouredClips, ColouredWild)
    torch.cuda.reset_peak_memory_stats(0)
    before = torch.cuda.max_memory_allocated(0)
    run = Run(config, tmp_path, "cuda:1", stages=stages, protectors=study.PROTECTORS)
    for name in PIPELINE:
        run.make(name)
    assert torch.cuda.max_memory_allocated(0) == before
    assert next(run.get("identity").parameters()).device == torch.device("cuda:1")
    losses = [json.loads(line)["loss"] for line in (run.dir / "privacy/metrics.jsonl").open()]
    assert all(abs(loss) < 100 for loss in losses)
