"""What is promised is counted, and the page of promises names tests that exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

from counting import filled, of_the_run
from vulnerabilities import verdict

from ppfer.config import REPO

PAGE = (REPO / "tests" / "README.md").read_text()


def test_the_page_names_tests_that_exist():
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", PAGE)
    assert len(named) >= 8
    for file, test in named:
        (path,) = (REPO / "tests").rglob(file)
        assert not test or f"def {test}(" in path.read_text(), test


def test_counts_are_written_by_the_run():
    text = "<!-- count: kills -->0<!-- end --> and <!-- count: other -->5<!-- end -->"
    assert "kills -->42<!--" in filled(text, {"kills": 42}) and "-->5<" in filled(
        text, {"kills": 1}
    )
    skipped = [SimpleNamespace(longrepr=("", 1, "Skipped: needs two GPUs"))] * 2
    own = of_the_run({"passed": [1, 2, 3], "skipped": skipped}, 600.0)
    assert own | {"tests": 3, "minutes": 10, "left out": "2: needs two GPUs"} == own
    counted = set(re.findall(r"<!-- count: (.+?) -->", PAGE))
    sources = [path.read_text() for path in (REPO / "tests" / "faults").glob("test_*.py")]
    kinds = {kind for text in sources for kind in re.findall(r'COUNTS\["(.+?)"\] \+=', text)}
    kinds |= of_the_run({"passed": []}, 0.0).keys()
    assert counted == kinds, "each count has its place on the page"


def test_not_to_have_looked_is_said():
    assert verdict("") == (
        0, "NOT CHECKED for known vulnerabilities: the database could not be reached"
    )  # fmt: skip
    skipped = {"name": "b", "skip_reason": "not found"}
    bad = {"name": "a", "version": "1", "vulns": [{"id": "CVE-1"}]}
    code, said = verdict(json.dumps({"dependencies": [bad, skipped]}))
    assert code == 1 and "a 1: CVE-1" in said and "NOT CHECKED" in said and "1 packages" in said
    assert verdict(json.dumps({"dependencies": [bad | {"vulns": []}]}))[0] == 0


def test_two_processes_run_each_file_once_and_what_fails_in_one_fails(tmp_path):
    for n in range(4):
        (tmp_path / f"test_{n}.py").write_text(f"def test(): print(1 / {n}, file=open('{n}', 'x'))")
    command = [sys.executable, REPO / "tests" / "in_two.py", "-p", "in_two", "--rootdir", tmp_path]
    env = os.environ | {"PYTHONPATH": str(REPO / "tests")}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and "FAILED from the" in done.stdout
    assert done.stdout.count("ZeroDivisionError: ") == 2, "in its place, and in the summary"
    assert sum(map(int, re.findall(r"(\d) passed", done.stdout))) == 3
    (tmp_path / "test_0.py").unlink()
    for n in range(1, 4):
        (tmp_path / f"{n}").unlink()
    assert subprocess.run(command, cwd=tmp_path, env=env, capture_output=True).returncode == 0
