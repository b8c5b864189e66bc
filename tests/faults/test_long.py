"""The long haul: hours of video, runs in a row, notebooks killed, a process that dies among
several.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
import torch
from cases import CPU
from counting import COUNTS
from harness import forked, orphans, smoke

from ppfer.config import REPO
from ppfer.video.heads import ProtectOptions
from ppfer.video.protect_files import protect_files
from ppfer.video.scene import COVERS

pytestmark = pytest.mark.full
needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
HOURS, RATE = float(os.environ.get("FAULT_HOURS", 2)), 10  # of video, and its frames a second
RUNS = int(os.environ.get("FAULT_RUNS", 30))


def long_video(path: Path, hours: float) -> int:
    """Moving stripes, 64 × 48; returns how many frames."""
    count, rows = int(hours * 3600 * RATE), np.arange(48)[:, None, None]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(RATE))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(count):
            picture = np.broadcast_to((4 * (rows + k) % 256).astype(np.uint8), (48, 64, 3))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return count


def state() -> tuple[int, int]:
    """Memory and open files of this process."""
    gc.collect()
    process = psutil.Process()
    return process.memory_info().rss, process.num_fds()


def test_hours_of_video_take_the_memory_of_minutes(tmp_path):
    (tmp_path / "in").mkdir()
    count, seen = long_video(tmp_path / "in" / "long.avi", HOURS), []

    def watched(clips):
        seen.append(psutil.Process().memory_info().rss)
        return COVERS["mosaic"](clips)

    before = state()[1]
    options = ProtectOptions(size=32, device=CPU, frame="whole")
    (became,) = protect_files(watched, tmp_path / "in", tmp_path / "out", options)
    assert became.ok and became.tally.frames == count
    early, late = max(seen[10:100]), max(seen[-10:])
    assert late - early < 100e6, f"{early / 1e6:.0f} MB early, {late / 1e6:.0f} MB late"
    assert state()[1] <= before
    COUNTS["hours of video"] += round(HOURS, 2)


def test_runs_in_a_row_leave_nothing_behind(tmp_path):
    said, marks = tmp_path / "said", tmp_path / "marks.json"

    def again() -> int:
        seen, tables = [], set()
        for number in range(RUNS):
            runs = tmp_path / f"{number}"
            if code := smoke(runs)():
                return code
            files = sorted((runs / "smoke" / "tables").glob("*.json"))
            tables.add("".join(path.read_text() for path in files))
            seen.append((*state(), len(psutil.Process().children())))
        marks.write_text(json.dumps({"seen": seen, "different": len(tables)}))
        return 0

    assert forked(again, said, 120 * RUNS) == 0, said.read_text()[-2000:]
    marked = json.loads(marks.read_text())
    memory, files, children = zip(*marked["seen"], strict=True)
    grown = (memory[-1] - memory[1]) / max(1, RUNS - 2)
    print(f"{RUNS} runs: {grown / 1e6:+.2f} MB a run, files {files}, children {children}")
    assert marked["different"] == 1
    assert grown < 3e6 and files[-1] <= files[1] and children[-1] <= children[1] <= 1
    COUNTS["runs in a row"] += RUNS


def ppfer(*words: str, launcher: tuple[str, ...] = (), gpus: bool = False) -> subprocess.Popen:
    command = [sys.executable, *launcher, "-m", "ppfer", *words]
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    settings |= {} if gpus else {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        command, cwd=REPO, env=os.environ | settings, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def test_killed_notebooks_go_on(tmp_path):
    """Kernels end with the command that started them, and the next one goes on."""
    words = ["run", "--profile", "smoke", "--notebooks", "00,03,04", "--runs-dir", str(tmp_path)]
    rng = np.random.default_rng(0)
    for mark in ("[1/3]", "wild:", "[2/3]", "[3/3]", "(pretrain)"):  # lines, in their order
        run, said = ppfer(*words), []
        while not (said and mark in said[-1]):
            said.append(run.stdout.readline().lstrip())
            assert said[-1] or run.poll() is None, f"{mark} never came: {said}"
        time.sleep(rng.uniform(0, 1))
        family = psutil.Process(run.pid).children(recursive=True)
        run.kill()
        assert run.wait() == -signal.SIGKILL
        _, left = psutil.wait_procs(family, 60)  # a kernel first imports to its end
        assert not left and not orphans(tmp_path), "a kernel works on without its command"
        COUNTS["kills survived"] += 1
    done = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("smoke/**/manifest.json")}
    run = ppfer(*words)
    said, _ = run.communicate(timeout=600)
    assert run.returncode == 0, said[-2000:]
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    assert len(list((tmp_path / "smoke" / "notebooks").glob("[!.]*.ipynb"))) == 3


@pytest.mark.parametrize("who", ["the command", "a worker"])
def test_a_batch_that_is_stopped_leaves_no_kernel(tmp_path, who):
    """Ctrl-C, or a worker that is killed, while both workers have a notebook open."""
    words = ["--profile", "smoke", "--notebooks", "02", "--grid", "seed=0,1", "--workers", "2"]
    run = ppfer("batch", *words, "--runs-dir", str(tmp_path))
    workers, end = set(), time.monotonic() + 240
    while len(workers) < 2:
        assert run.poll() is None and time.monotonic() < end, "no kernels"
        workers = with_kernels(run.pid)
        time.sleep(0.05)
    family = psutil.Process(run.pid).children(recursive=True)
    number = signal.SIGINT if who == "the command" else signal.SIGKILL
    os.kill(run.pid if who == "the command" else min(workers), number)
    said, _ = run.communicate(timeout=120)
    assert run.returncode == (130 if who == "the command" else 2), said[-2000:]
    assert "Traceback" not in said and ("a worker was killed" in said) == (who == "a worker")
    _, left = psutil.wait_procs(family, 10)
    assert not left
    COUNTS["kills survived"] += 1


def with_kernels(command: int) -> set[int]:
    """Workers of a batch that have started a kernel."""
    found = set()
    with contextlib.suppress(psutil.Error):
        for worker in psutil.Process(command).children():
            if any("ipykernel" in str(p.cmdline()) for p in worker.children()):
                found.add(worker.pid)
    return found


def two_processes(runs: Path, gpus: bool) -> tuple[subprocess.Popen, list[psutil.Process]]:
    """`accelerate launch` of a stage that does not end, and its two processes, once they train."""
    launcher = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
    words = ["run", "--profile", "smoke", "--no-notebooks", "--runs-dir", str(runs)]
    run = ppfer(*words, "--set", "identity.steps=100000", launcher=launcher, gpus=gpus)
    end = time.monotonic() + 240
    while time.monotonic() < end and not list(runs.rglob("identity/metrics.jsonl")):
        time.sleep(0.5)
    time.sleep(3)
    workers = [p for p in psutil.Process(run.pid).children() if "ppfer" in " ".join(p.cmdline())]
    assert len(workers) == 2
    return run, sorted(workers, key=lambda p: int(p.environ()["RANK"]))


WHERE = ["on CPUs", pytest.param("on GPUs", marks=needs_two)]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("dies", [0, 1])
def test_one_process_of_two_that_dies_ends_the_other_with_a_sentence(dies, where, tmp_path):
    run, workers = two_processes(tmp_path, where == "on GPUs")
    workers[dies].kill()
    said, _ = run.communicate(timeout=120)
    assert run.returncode and "ppfer: another process of this run has ended" in said, said[-3000:]
    assert not orphans(tmp_path)
    COUNTS["processes killed among several"] += 1


def test_a_process_that_waits_inside_a_library_ends_with_a_sentence(tmp_path):
    """As one of several GPUs does for another that died: no handler of Python's runs then."""
    run, workers = two_processes(tmp_path, gpus=False)
    workers[1].suspend()
    time.sleep(2)
    workers[0].terminate()
    workers[0].wait(40)
    workers[1].kill()
    said, _ = run.communicate(timeout=120)
    assert run.returncode and "ppfer: another process of this run has ended" in said, said[-3000:]
    assert not orphans(tmp_path)
    COUNTS["processes killed among several"] += 1
