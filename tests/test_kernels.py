"""Kernels forked from a process that has imported everything: as good as new, and gone with it."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from ppfer.base.errors import PpferError
from ppfer.cli import execute, kernels
from ppfer.config import REPO

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only")

ABOUT = """import sys
forked = {"torch", "ppfer.show.explore", "seaborn"} <= sys.modules.keys()
import multiprocessing, os, signal, subprocess
print({"forked": forked, "pid": os.getpid(), "leads": os.getsid(0) == os.getpid(),
 "cwd": os.getcwd(), "argv": sys.argv[1], "path": sys.path,
 "start": multiprocessing.get_start_method(), "stdin": os.readlink("/proc/self/fd/0"),
 "child": subprocess.run([sys.executable, "-c", "exit(3)"]).returncode,
 "sigint": signal.getsignal(signal.SIGINT).__name__})
"""
DRAWN = """import random, numpy, torch
print(random.random(), numpy.random.rand(), torch.rand(1).item(), torch.get_num_threads())
"""
WHERE = """import os
print(os.environ["OMP_NUM_THREADS"], os.getppid())
"""
SUM = """import torch
torch.manual_seed(0)
print(torch.nn.Conv2d(3, 8, 3)(torch.rand(4, 3, 32, 32)).sum().item().hex())
"""
SLEEPS = """import os, time
open(f"{folder}/kernel", "w").write(str(os.getpid()))
try:
    time.sleep(100)
except KeyboardInterrupt:
    open(f"{folder}/kept", "w").close()
    raise
"""


def book(folder: Path, *cells: str) -> Path:
    """A notebook with one parameter, and these cells."""
    first = new_code_cell('folder: str = ""', metadata={"tags": ["parameters"]})
    path = folder / "book.ipynb"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    cells = [first, *map(new_code_cell, cells)]
    nbformat.write(new_notebook(cells=cells, metadata=about), path)
    return path


def said(path: Path, out: Path) -> list[str]:
    """What an executed notebook's cells wrote."""
    execute.execute(path, out)
    cells = nbformat.read(out, as_version=4).cells
    return [o.get("text") or o["data"]["text/plain"] for c in cells for o in c.get("outputs", [])]


def program(folder: Path, code: str = "") -> subprocess.Popen:
    """A process of its own that executes a notebook in the folder."""
    code += "\nfrom ppfer import execute, kernels\nfrom pathlib import Path"
    code += f"\nexecute.execute(Path({str(folder / 'book.ipynb')!r}), "
    code += f"Path({str(folder / 'out.ipynb')!r}), folder={str(folder)!r})"
    env = os.environ | {"PYTHONPATH": str(REPO)}
    return subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE)


def until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_a_kernel_is_forked_and_as_good_as_new(tmp_path):
    path = book(tmp_path, ABOUT, DRAWN)
    (one, drawn), (two, again) = (said(path, tmp_path / f"{i}.ipynb") for i in range(2))
    one, two = (ast.literal_eval(text) for text in (one, two))
    assert one["forked"] and two["forked"] and one["pid"] != two["pid"] and one["leads"]
    assert one["child"] == 3 and one["cwd"] == str(tmp_path) and one["argv"] == "-f"
    assert one["start"] == "fork" and one["sigint"] == "default_int_handler"
    assert one["stdin"] == "/dev/null"
    assert not set(drawn.split()[:3]) & set(again.split()[:3]), "each has its own random state"


def test_where_nothing_can_be_forked_results_are_the_same(tmp_path, monkeypatch):
    path = book(tmp_path, SUM, ABOUT)
    forked, about = said(path, tmp_path / "forked.ipynb")
    monkeypatch.setattr(kernels, "ready", lambda env: None)
    fresh, other = said(path, tmp_path / "fresh.ipynb")
    assert forked == fresh
    about, other = ast.literal_eval(about), ast.literal_eval(other)
    assert {k for k in about if about[k] != other[k]} == {"forked", "pid", "stdin"}


@pytest.mark.faults
def test_the_environment_reaches_the_kernel(tmp_path, monkeypatch):
    """Also what is only read on import: another environment has another server."""
    path, servers = book(tmp_path, WHERE), set()
    for threads in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        told, server = said(path, tmp_path / "out.ipynb")[0].split()
        servers.add(server)
        assert told == threads
    assert len(servers) == 2


@pytest.mark.faults
def test_a_server_that_died_is_replaced(tmp_path):
    path = book(tmp_path, "print(1)")
    assert said(path, tmp_path / "out.ipynb") == ["1\n"]
    env = {**os.environ, "PPFER_HEADLESS": "1"}
    server = kernels.ready(env)
    server.process.kill()
    server.process.wait()
    assert kernels.ready(env) is None and kernels.ready(env).process.pid != server.process.pid


def test_a_kernel_that_dies_is_an_error_and_no_wait(tmp_path):
    with pytest.raises((PpferError, RuntimeError), match="[Kk]ernel"):
        said(book(tmp_path, "import os; os._exit(1)"), tmp_path / "out.ipynb")


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_a_process_that_is_stopped(tmp_path, number):
    book(tmp_path, SLEEPS)
    worker = program(tmp_path)
    until(lambda: (tmp_path / "kernel").exists() and (tmp_path / "kernel").read_text())
    kernel = psutil.Process(int((tmp_path / "kernel").read_text()))
    server = kernel.parent()
    assert server.ppid() == worker.pid
    worker.send_signal(number)
    error = worker.communicate(timeout=20)[1]
    until(lambda: not kernel.is_running() and not server.is_running(), 10)
    assert (tmp_path / "kept").exists() == (number == signal.SIGINT)
    assert number == signal.SIGKILL or error.endswith(b"KeyboardInterrupt\n")


@pytest.mark.faults
def test_ctrl_c_while_the_server_imports(tmp_path):
    book(tmp_path, SLEEPS)
    worker = program(tmp_path)
    until(lambda: psutil.Process(worker.pid).children())
    (server,) = psutil.Process(worker.pid).children()
    until(lambda: "kernels.serve" in str(server.cmdline()))
    time.sleep(0.5)  # of the seconds that it takes
    worker.send_signal(signal.SIGINT)
    said = worker.communicate(timeout=30)[1]
    assert said.endswith(b"KeyboardInterrupt\n"), said.decode()
    until(lambda: not server.is_running(), 2)
    assert not (tmp_path / "kernel").exists()


@pytest.mark.faults
def test_ctrl_c_while_a_kernel_begins(tmp_path):
    """There is no cell yet that could answer it."""
    book(tmp_path, SLEEPS)
    early = "import signal\nfrom ppfer import kernels\nfork = kernels.Server.fork\n"
    early += (
        "def forked(*about):\n    kernel = fork(*about)\n    signal.raise_signal(signal.SIGINT)"
    )
    worker = program(tmp_path, early + "\n    return kernel\nkernels.Server.fork = forked")
    assert worker.communicate(timeout=90)[1].endswith(b"KeyboardInterrupt\n")
    assert not (tmp_path / "kernel").exists()


def test_a_kernel_that_has_just_ended_takes_signals():
    """It is asked to end some time after it was looked at; on a busy machine it is gone then."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        kernel = kernels._Kernel(child.pid)
    kernel.send_signal(signal.SIGINT), kernel.terminate(), kernel.kill()
    assert kernel.poll() == 0
