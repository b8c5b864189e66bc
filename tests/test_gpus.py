"""On GPUs: a whole run on the second of two, beside what the first one makes."""

import json

import pytest
import torch
from conftest import SMALL, coloured_run

from ppfer.config import load_config
from ppfer.method import PIPELINE

needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@needs_two
def test_a_run_on_the_second_gpu_leaves_the_first_alone(tmp_path):
    torch.cuda.reset_peak_memory_stats(0)
    before = torch.cuda.max_memory_allocated(0)
    run = coloured_run(load_config("smoke", SMALL), tmp_path, "cuda:1")
    for name in PIPELINE:
        run.make(name)
    assert torch.cuda.max_memory_allocated(0) == before
    assert next(run.get("identity").parameters()).device == torch.device("cuda:1")
    losses = [json.loads(line)["loss"] for line in (run.dir / "privacy/metrics.jsonl").open()]
    assert all(abs(loss) < 100 for loss in losses)
