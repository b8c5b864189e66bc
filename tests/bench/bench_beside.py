"""A training step beside other work: ``python tests/bench/bench_beside.py``.

The identity controller of profile demo, 128 frames a step: alone, and beside one and two processes
that never rest. Compared with what its fair share of the cores allows (of t threads beside b others
on c cores: t c / (t + b) cores), and with threads that spin while they wait, as OpenMP's do unless
`ppfer` is imported first. Blocks of steps take turns; of each kind the fastest counts, since a
machine has other users.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import common
import torch

import ppfer
from ppfer.base.device import device_name
from ppfer.config import load_config
from ppfer.method.networks import classification, new_classifier
from ppfer.run import fast

STEPS, TURNS, BUSY = 4, 5, (0, 1, 2)
SPINNING = {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "30000000000"}
POLICIES = {"asleep": ppfer.WAITING, "spinning": SPINNING}


def train() -> None:
    """Milliseconds of a step, and of the CPU in it, printed for each line that comes."""
    config, cpu = load_config("demo"), common.pick_device(["", "cpu"])
    objective = fast.prepare(classification(new_classifier(config, 12)), cpu)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    pixels, labels = torch.rand(128, 3, config.size, config.size), torch.arange(128) % 12
    for _ in sys.stdin:
        began = time.perf_counter(), time.process_time()
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            objective(pixels, labels).backward()
            optimizer.step()
        took = time.perf_counter() - began[0], time.process_time() - began[1]
        print(*(1000 * seconds / STEPS for seconds in took), flush=True)


@contextlib.contextmanager
def others(count: int) -> Iterator[None]:
    """So many processes that never rest."""
    command = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main() -> None:
    trainers = {}
    for kind, policy in POLICIES.items():
        how = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        env = os.environ | policy
        trainers[kind] = subprocess.Popen([sys.executable, __file__, "train"], env=env, **how)
    found: dict[tuple[str, int], list[tuple]] = {}
    for _ in range(TURNS):
        for kind, trainer in trainers.items():
            for count in BUSY:
                with others(count):
                    trainer.send_signal(signal.SIGCONT)
                    trainer.stdin.write("\n")
                    times = tuple(map(float, trainer.stdout.readline().split()))
                    found.setdefault((kind, count), []).append(times)
                    trainer.send_signal(signal.SIGSTOP)  # threads that spin do so while they wait
    for trainer in trainers.values():
        trainer.send_signal(signal.SIGCONT)
        trainer.stdin.close()
        trainer.wait()

    ms = {key: min(times)[0] for key, times in found.items()}
    cpu_ms = {key: min(cpu for _, cpu in times) for key, times in found.items()}
    device = device_name(common.pick_device(["", "cpu"]))
    cores, threads, rows = os.cpu_count(), torch.get_num_threads(), []
    for count in BUSY:
        what = f"identity, a step beside {count} busy processes on {cores} cores"
        share = min(threads, cores * threads / (threads + count))
        fair, mine = ms["asleep", 0] * threads / share, ("asleep", count)
        peers = {"its fair share": fair, "threads that spin": ms["spinning", count]}
        for peer, took in peers.items():
            how = {"smaller": True, "cpu_ms": round(cpu_ms[mine], 1)}
            rows.append(common.row(what, ms[mine], took, peer, "ms", device, **how))
    print("CPU ms a step:", {f"{kind} {n}": round(x, 1) for (kind, n), x in cpu_ms.items()})
    common.keep(rows, "beside")


if __name__ == "__main__":
    train() if sys.argv[1:] == ["train"] else main()
