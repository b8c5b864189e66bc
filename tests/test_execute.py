"""Notebooks run headless: kernels get what they need, die, are interrupted, and leave nothing."""

from __future__ import annotations

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
from ppfer.cli import execute
from ppfer.config import REPO

SLEEPS = """import os, time
open(f"{folder}/kernel", "w").write(str(os.getpid()))
try:
    time.sleep(100)
except KeyboardInterrupt:
    open(f"{folder}/kept", "w").close()
    raise
"""
ABOUT = """import os
print(os.environ["OMP_NUM_THREADS"], os.getcwd(), os.environ["PPFER_HEADLESS"])
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


def printed(path: Path, out: Path) -> list[str]:
    """What an executed notebook's cells print."""
    execute.execute(path, out)
    cells = nbformat.read(out, as_version=4).cells
    return [output["text"] for cell in cells for output in cell.get("outputs", [])]


def program(folder: Path, code: str = "") -> subprocess.Popen:
    """A process of its own that executes a notebook in the folder."""
    code += "\nfrom ppfer.cli import execute\nfrom pathlib import Path"
    code += f"\nexecute.execute(Path({str(folder / 'book.ipynb')!r}), "
    code += f"Path({str(folder / 'out.ipynb')!r}), folder={str(folder)!r})"
    env = os.environ | {"PYTHONPATH": str(REPO)}
    return subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE)


def until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_a_kernel_has_its_commands_environment_and_leaves_nothing_behind(
    tmp_path, monkeypatch, capfd
):
    """Nor does what it logs while it ends frighten anybody."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    log = "from ipykernel.kernelapp import IPKernelApp\n"
    log += "IPKernelApp.instance().log.error('KeyboardInterrupt caught in kernel.')"
    before = dict(os.environ)
    (text,) = printed(book(tmp_path, ABOUT, log), tmp_path / "out.ipynb")
    assert text.split() == ["3", str(tmp_path), "1"] and dict(os.environ) == before
    assert "caught in kernel" not in "".join(capfd.readouterr())


def test_without_a_home_to_write_to_notebooks_run(tmp_path, monkeypatch):
    """As in a container of another user, or on a node of a cluster."""
    (tmp_path / "file").touch()  # no folder can be made below one, whoever asks
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    for name in ("XDG_DATA_HOME", "XDG_RUNTIME_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.delenv(name, raising=False)
    assert printed(book(tmp_path, "print(1)"), tmp_path / "out.ipynb") == ["1\n"]


def test_a_kernel_that_dies_is_an_error_and_no_wait(tmp_path):
    with pytest.raises((PpferError, RuntimeError), match="[Kk]ernel"):
        printed(book(tmp_path, "import os; os._exit(1)"), tmp_path / "out.ipynb")


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_a_process_that_is_stopped(tmp_path, number):
    book(tmp_path, SLEEPS)
    worker = program(tmp_path)
    until(lambda: (tmp_path / "kernel").exists() and (tmp_path / "kernel").read_text())
    kernel = psutil.Process(int((tmp_path / "kernel").read_text()))
    worker.send_signal(number)
    error = worker.communicate(timeout=30)[1]
    until(lambda: not kernel.is_running(), 10)
    assert (tmp_path / "kept").exists() == (number == signal.SIGINT)
    assert number == signal.SIGKILL or error.endswith(b"KeyboardInterrupt\n")


@pytest.mark.faults
def test_ctrl_c_while_a_kernel_begins(tmp_path):
    """There is no cell yet that could answer it."""
    book(tmp_path, SLEEPS)
    worker = program(tmp_path)
    until(lambda: psutil.Process(worker.pid).children())
    worker.send_signal(signal.SIGINT)
    error = worker.communicate(timeout=90)[1]
    assert error.endswith(b"KeyboardInterrupt\n"), error.decode()
    assert not (tmp_path / "kernel").exists()
