"""How soon ppfer answers: ``python tests/bench/bench_start.py``.

CPU time of a whole process, the least of several: ``import ppfer`` and questions to the command
line, beside a Python that does nothing, and what the first cell of a notebook imports, beside the
libraries that it needs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

import common

from ppfer.base.device import device_name
from ppfer.config import REPO

TURNS = 5
LIBRARIES = "torch, torchvision, timm, accelerate, torchmetrics, seaborn, pandas, ipywidgets"
QUESTIONS = ("--help", "rnu", "settings", "runs", "audit", "protect --help")


def cost(*words: str) -> tuple[float, float]:
    """CPU ms and MB of ``python WORDS`` in an empty folder, whatever it answers."""
    found, env = [], os.environ | {"PYTHONPATH": str(REPO)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(TURNS):
            process = subprocess.Popen([sys.executable, *words], cwd=folder, env=env, **quiet)
            _, _, used = os.wait4(process.pid, 0)
            found.append((1000 * (used.ru_utime + used.ru_stime), used.ru_maxrss / 1024))
    return min(found)


def imports(notebook: str) -> str:
    """The imports of a notebook's first cell that has any."""
    cells = json.loads((REPO / "notebooks" / notebook).read_text("utf-8"))["cells"]
    code = ("".join(cell["source"]).splitlines() for cell in cells if cell["cell_type"] == "code")
    found = ([line for line in lines if line.startswith(("import ", "from "))] for lines in code)
    return "\n".join(next(filter(None, found)))


def main() -> None:
    nothing, rows = cost("-c", "pass"), []
    device = device_name(common.pick_device(["", "cpu"]))
    asked = {f"ppfer {question}": ("-m", "ppfer", *question.split()) for question in QUESTIONS}
    sides = {
        what: (words, "python -c pass", nothing)
        for what, words in ({"import ppfer": ("-c", "import ppfer")} | asked).items()
    }
    libraries = "its libraries alone", cost("-c", f"import {LIBRARIES}")
    for notebook in ("01_wavelets.ipynb", "07_leakage.ipynb", "11_attackers.ipynb"):
        sides[f"imports of notebook {notebook[:2]}"] = (("-c", imports(notebook)), *libraries)
    for what, (words, name, (their_ms, their_mb)) in sides.items():
        ms, mb = cost(*words)
        more = {"smaller": True, "mb": round(mb), "peer_mb": round(their_mb)}
        rows.append(common.row(what, ms, their_ms, name, "ms", device, **more))
    common.keep(rows, "start")


if __name__ == "__main__":
    main()
