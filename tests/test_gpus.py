"""On GPUs: a run gives the same digits twice; one on the second leaves the first alone."""

import json

import pytest
import torch
from conftest import SMALL, coloured_run

from ppfer.config import load_config
from ppfer.method import PIPELINE

needs_one = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@needs_two
def test_a_run_on_the_second_gpu_leaves_the_first_alone(tmp_path):
    torch.cuda.init()  # else there are no peaks to reset yet
    torch.cuda.reset_peak_memory_stats(0)
    before = torch.cuda.max_memory_allocated(0)
    run = coloured_run(load_config("smoke", SMALL), tmp_path, "cuda:1")
    for name in PIPELINE:
        run.make(name)
    assert torch.cuda.max_memory_allocated(0) == before
    assert next(run.get("identity").parameters()).device == torch.device("cuda:1")
    losses = [json.loads(line)["loss"] for line in (run.dir / "privacy/metrics.jsonl").open()]
    assert all(abs(loss) < 100 for loss in losses)


@needs_one
def test_a_run_gives_the_same_digits_twice(tmp_path):
    """The size at which judges see bands is not theirs: their gradient comes through a resizing."""
    steps = {f"{stage}.steps": 30 for stage in ("identity", "pretrain", "privacy", "compensation")}
    runs = []
    for folder in ("one", "two"):
        run = coloured_run(load_config("smoke", SMALL | steps), tmp_path / folder, "cuda:0")
        for name in PIPELINE:
            run.make(name)
        runs.append(run)
    for name in ("identity", "pretrain", "privacy", "compensation", "recognizer/ppfer"):
        files = (run.dir / name / "metrics.jsonl" for run in runs)
        one, two = (list(map(json.loads, file.open())) for file in files)
        for a, b in zip(one, two, strict=True):
            assert a | {"seconds": 0} == b | {"seconds": 0}, name
