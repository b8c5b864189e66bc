"""It runs beside other work, from any folder, and on a terminal of any encoding."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import nbformat
import papermill
import pytest

import ppfer
from ppfer.base.files import write_json
from ppfer.config import REPO
from ppfer.show import notebook

ASK = "import os, ppfer; print(*map(os.environ.get, ppfer.WAITING))"


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_threads_soon_wait_asleep_unless_the_user_says_otherwise(given):
    """Set before PyTorch is loaded, since OpenMP looks only then."""
    env = {k: v for k, v in os.environ.items() if k not in ppfer.WAITING}
    env |= {"PYTHONPATH": str(REPO)} | ({"OMP_WAIT_POLICY": given} if given else {})
    how = {"capture_output": True, "text": True, "env": env, "check": True}
    said = subprocess.run([sys.executable, "-c", ASK], **how).stdout.strip()
    assert said == ("ACTIVE None" if given else "PASSIVE 500")


def test_results_lie_in_the_checkout_whatever_folder_a_notebook_works_in(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    run = notebook.start("smoke", 0, "../runs", {"name": "nowhere"})
    assert run.dir == REPO / "runs" / "nowhere"
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"results in {os.path.join('runs', 'nowhere')}"
    run = notebook.start("smoke", 0, str(tmp_path / "mine"))
    assert run.dir.parent == tmp_path / "mine"
    assert capsys.readouterr().out.startswith(f"results in {tmp_path}")


def test_papermill_runs_a_notebook_from_another_folder(tmp_path, monkeypatch):
    """The notebook's own default is kept: it must not look beside the folder of the caller."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    book = nbformat.read(REPO / "notebooks" / "01_wavelets.ipynb", as_version=4)
    code = [i for i, cell in enumerate(book.cells) if cell.cell_type == "code"]
    book.cells = book.cells[: code[1] + 1]  # its parameters and the cell that begins
    nbformat.write(book, "in.ipynb")
    done = papermill.execute_notebook(
        "in.ipynb", "out.ipynb", {"profile": "smoke"}, kernel_name="python3", progress_bar=False
    )
    said = "".join(out.get("text", "") for cell in done.cells for out in cell.get("outputs", []))
    assert f"results in {os.path.join('runs', 'smoke')}\n" in said


def test_a_terminal_that_knows_only_ascii_is_written_to(tmp_path):
    write_json(tmp_path / "one" / "run.json", {"profile": "smoke", "differs": {"data": "/é"}})
    env = os.environ | {"PYTHONPATH": str(REPO), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "ppfer", "runs", "--runs-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, env=env)
    assert done.returncode == 0 and b"data=/\\xe9" in done.stdout, done.stderr


def test_every_command_that_installs_an_extra_installs_this_checkout():
    """An index may hold anything under our name."""
    wrong = []
    for folder in ("ppfer", "data", "notebooks"):
        for path in (p for p in (REPO / folder).rglob("*") if p.suffix in (".py", ".md", ".ipynb")):
            text = re.sub(r'"\s*\n\s*f?"', "", path.read_text())  # sentences broken over lines
            wrong += [str(path)] * len(re.findall(r"pip install\s+(?!-e|--editable)\S*ppfer", text))
    assert not wrong
