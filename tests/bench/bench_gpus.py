"""F_u on one GPU and on all of this machine, through ``accelerate launch``: ``python
tests/bench/bench_gpus.py``.

Both train R3D-18 at the twin's size by `ppfer.run.loop.fit`. "batch 64" is the stage's own batch,
shared out: the same training in less time. "batch 64 a GPU" gives every GPU as much work as one
had.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import bench_stages
import common
import numpy as np
import torch
from accelerate import PartialState

from ppfer.base.processes import is_main
from ppfer.config import load_config
from ppfer.run.batches import Batches
from ppfer.study import cost


def work(batch: int, out: Path) -> None:
    """One process of one training: clips per second over all processes, into a file."""
    device, config = PartialState().device, load_config("twin")
    rng = np.random.default_rng(0)
    shape = (bench_stages.CLIPS, config.frames, 3, config.size, config.size)
    clips = torch.from_numpy(rng.integers(0, 255, shape, dtype=np.uint8)).to(device)
    labels = rng.integers(0, 6, bench_stages.CLIPS)
    stage = cost.Unmade(config).stage("recognizer/none")
    how = {"batch": batch, "seed": 0, "device": device, "per_frame": False}
    batches = Batches(clips, np.arange(len(clips)), labels, **how)
    setting, folder = dataclasses.replace(stage.train, batch=batch), str(out.parent)
    objective = stage.objective(cost.network(stage))
    rate = bench_stages.our_rate(objective, batches, setting, device, 160, False, folder)
    if is_main():
        out.write_text(json.dumps(rate))


def run(count: int) -> list[dict]:
    """A row per way of sharing."""

    def rate(processes: int, batch: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "rate.json"
            how = f"--num_processes {processes} --num_machines 1 --mixed_precision no"
            how += " --dynamo_backend no" + (" --multi_gpu" if processes > 1 else "")
            command = [sys.executable, "-m", "accelerate.commands.launch", *how.split()]
            subprocess.run([*command, __file__, str(batch), str(out)], check=True)
            return json.loads(out.read_text())

    alone = rate(1, 64)
    name = f"{count} × {torch.cuda.get_device_name()}"
    return [
        common.row(f"recognizer/none, {what}", rate(count, batch), alone, "1 GPU", "clips/s", name)
        for what, batch in (("batch 64", 64), ("batch 64 a GPU", 64 * count))
    ]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        work(int(sys.argv[1]), Path(sys.argv[2]))
    elif torch.cuda.device_count() < 2:
        print("bench_gpus needs two GPUs; its rows stay as they are")
    else:
        common.keep(run(torch.cuda.device_count()), "stages")
