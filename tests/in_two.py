"""The tests in two processes, since most of them keep one core busy: ``python tests/in_two.py``.

Each process takes file after file, one from the front and one from the back, until they meet. What
the second says comes below what the first says, when both have ended.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ENDS = ("front", "back")
LONGEST = "test_notebooks.py"  # first of all, so that nobody waits for it


def main(*options: str) -> int:
    """1 where a test failed in either process."""
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "said", "w+") as said:
        both = [started(end, folder, options, out) for end, out in zip(ENDS, (None, said))]
        signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is the others' too: wait for them
        signal.signal(signal.SIGTERM, lambda *_: [process.terminate() for process in both])
        failed = [end for end, process in zip(ENDS, both) if process.wait()]
        said.seek(0)
        print(said.read())
    print(f"FAILED from the {' and from the '.join(failed)}" if failed else "passed from both ends")
    return int(bool(failed))


def started(end: str, folder: str, options: tuple[str, ...], out=None) -> subprocess.Popen:
    """One of the two, which writes nothing where the other does."""
    command = [sys.executable, "-m", "pytest", "--from", end, folder, *options]
    command += ["-o", f"cache_dir={folder}/cache-{end}"]
    own = {"OMP_NUM_THREADS": "1", "HYPOTHESIS_STORAGE_DIRECTORY": f"{folder}/hypothesis-{end}"}
    return subprocess.Popen(command, env=os.environ | own, stdout=out, stderr=out)


# --- in each of them --------------------------------------------------------------


def pytest_addoption(parser) -> None:
    how = "take files of tests from this end, those that nobody has taken in this folder"
    parser.addoption("--from", dest="half", nargs=2, metavar=("END", "FOLDER"), help=how)


def pytest_collection_modifyitems(config, items) -> None:
    if half := config.getoption("half"):
        files = sorted(dict.fromkeys(item.path for item in items), key=lambda p: p.name != LONGEST)
        place = {file: i for i, file in enumerate(files[:: 1 if half[0] == "front" else -1])}
        items.sort(key=lambda item: place[item.path])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item) -> bool | None:
    """True, that is done with, where the other process has the test's file."""
    half = item.config.getoption("half")
    return True if half and not taken(Path(half[1]) / item.path.name) else None


@functools.cache
def taken(mark: Path) -> bool:
    """Whether this process is the one that makes the mark."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
