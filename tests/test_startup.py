"""Questions and typos are answered at once: nothing heavy is imported for them."""

import os
import subprocess
import sys

import pytest

from ppfer.base.files import write_json
from ppfer.cli.options import COMMANDS
from ppfer.config import REPO

HEAVY = set("torch torchvision matplotlib seaborn pandas av papermill".split())
CODES = dict.fromkeys(["--help", "--version", *(f"{name} --help" for name in COMMANDS)], 0)
CODES |= dict.fromkeys((f"{name} --runs-dir RUNS" for name in ("runs", "audit", "clean")), 0)
CODES |= {"settings": 0} | dict.fromkeys(
    (
        "rnu",
        "protect --aproach x",
        "cost --profile dmo",
        "cost --set privacy.stepz=3",
        "run --data no/such/folder",
        "batch --set size=36 --grid seed=0,1",
        "protect v.mp4 --out o --set seed=one",
    ),
    2,
)
ASKING = f"""
import sys
import psutil
from ppfer.cli import main

for words, expected in {CODES}.items():
    try:
        code = main(words.replace("RUNS", sys.argv[1]).split())
    except SystemExit as error:
        code = error.code
    heavy = {HEAVY} & sys.modules.keys()
    assert code == expected and not heavy, (words, code, heavy)
this = psutil.Process()
print(sum(this.cpu_times()[:2]), this.memory_info().rss / 1e6, file=sys.stderr)
"""


@pytest.mark.skipif(os.name == "nt", reason="a pipe of POSIX shells")
def test_who_stops_reading_gets_no_traceback():
    command = f"{sys.executable} -m ppfer settings | head -1"
    env = os.environ | {"PYTHONPATH": str(REPO)}
    done = subprocess.run(command, shell=True, env=env, capture_output=True, text=True, timeout=100)
    assert done.stdout.startswith("Settings of profile demo") and not done.stderr


def test_what_is_answered_at_once_imports_nothing_heavy(tmp_path):
    """One process answers all. Seconds and MB have slack: the machine may be busy."""
    write_json(tmp_path / "old" / "run.json", {"profile": "smoke", "differs": {}})
    command, env = [sys.executable, "-c", ASKING, tmp_path], os.environ | {"PYTHONPATH": str(REPO)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    seconds, megabytes = map(float, done.stderr.splitlines()[-1].split())
    assert seconds < 4 and megabytes < 150
