"""Questions and typos are answered at once: nothing heavy is imported for them."""

import os
import subprocess
import sys

import pytest

from ppfer.base.files import write_json
from ppfer.cli.options import COMMANDS
from ppfer.config import REPO

HEAVY = "torch torchvision matplotlib seaborn pandas av papermill"
ASKING = f"""
import sys
import psutil
from ppfer.cli import main

try:
    code = main(sys.argv[1:])
except SystemExit as error:
    code = error.code
heavy = [name for name in "{HEAVY}".split() if name in sys.modules]
this = psutil.Process()
seconds, bytes = sum(this.cpu_times()[:2]), this.memory_info().rss
print(code, seconds, bytes / 1e6, *heavy, file=sys.stderr)
"""


@pytest.mark.skipif(os.name == "nt", reason="a pipe of POSIX shells")
def test_who_stops_reading_gets_no_traceback():
    command = f"{sys.executable} -m ppfer settings | head -1"
    env = os.environ | {"PYTHONPATH": str(REPO)}
    done = subprocess.run(command, shell=True, env=env, capture_output=True, text=True, timeout=100)
    assert done.stdout.startswith("Settings of profile demo") and not done.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("--help", 0),
        ("--version", 0),
        *((f"{name} --help", 0) for name in COMMANDS),
        ("rnu", 2),
        ("protect --aproach x", 2),
        ("cost --profile dmo", 2),
        ("cost --set privacy.stepz=3", 2),
        ("run --data no/such/folder", 2),
        ("batch --set size=36 --grid seed=0,1", 2),
        ("protect v.mp4 --out o --set seed=one", 2),
        ("runs --runs-dir RUNS", 0),
        ("audit --runs-dir RUNS", 0),
        ("clean --runs-dir RUNS", 0),
        ("settings", 0),
    ],
)
def test_what_is_answered_at_once_imports_nothing_heavy(words, code, tmp_path):
    """Seconds and MB have slack, since the machine may be busy; modules have none."""
    write_json(tmp_path / "old" / "run.json", {"profile": "smoke", "differs": {}})
    command = [sys.executable, "-c", ASKING, *words.replace("RUNS", str(tmp_path)).split()]
    env = os.environ | {"PYTHONPATH": str(REPO)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    answered, seconds, megabytes, *heavy = done.stderr.splitlines()[-1].split()
    assert int(answered) == code and not heavy, done.stderr
    assert float(seconds) < 4 and float(megabytes) < 150, done.stderr
