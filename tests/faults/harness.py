"""Programs that die: a forked child that runs the command line and is killed at a chosen moment, or
under a small disk or little memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import psutil
import torch

from ppfer import measure
from ppfer.cli import batch, main, protect, run
from ppfer.data import store
from ppfer.run import loop
from ppfer.video import writer
from ppfer.video.heads import ProtectOptions
from ppfer.video.protect_files import protect_files
from ppfer.video.scene import COVERS

LOADED = (batch, run)  # once, not in every child
MOMENTS = {  # where a program can be killed: (owner, name) of a function that is called there
    "decode": (store._Rows, "append"),
    "train": (loop.Loop, "step"),
    "write": (os, "replace"),
    "evaluate": (measure, "logits"),
    "publish": (measure, "write_table"),
}
PROTECTING = {"encode": (writer.Writer, "write"), "write": (os, "replace")}


def smoke(runs: Path) -> Callable[[], int]:
    """`ppfer run` of the smallest profile, stages and tables."""
    options = ["--profile", "smoke", "--no-notebooks", "--runs-dir", str(runs)]
    return lambda: main(["run", *options])


def grid(runs: Path, workers: int = 1) -> Callable[[], int]:
    """`ppfer batch` of two cells of the smallest profile, which share most of their stages."""
    options = ["--grid", "privacy.lr=1e-4,1e-3", "--workers", str(workers)]
    return lambda: main(["batch", "--profile", "smoke", "--runs-dir", str(runs), *options])


def protecting(source: Path, out: Path) -> Callable[[], int]:
    """`ppfer protect` of a folder by what needs no training, nor a run."""

    def without_a_run(args: object) -> int:
        options = ProtectOptions(size=32, device=torch.device("cpu"), frame="whole")
        bad = [o for o in protect_files(COVERS["mosaic"], source, out, options) if not o.ok]
        print(*bad, sep="\n", flush=True)
        return 1 if bad else 0

    def command() -> int:
        with patch.object(protect, "protect", without_a_run):
            return main(["protect", str(source), "--out", str(out)])

    return command


def forked(what: Callable[[], int], said: Path, seconds: float = 0.0) -> int:
    """Run a function in a child of its own session; its exit code, negative where it was killed.

    Args:
        said: takes its output.
        seconds: kill it after so long; 0 lets it run.
    """
    sys.stdout.flush()
    child = os.fork()
    if not child:
        code = 99
        try:
            os.setsid()
            file = os.open(said, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
            os.dup2(file, 1), os.dup2(file, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            code = what()
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush(), sys.stderr.flush()
            os._exit(code or 0)
    end = time.monotonic() + (seconds or 300)
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert seconds, "the program hung"
    assert not outlived(child), "processes outlived the one that was killed"
    return code


def outlived(session: int, seconds: float = 90.0) -> list[str]:
    """Processes of a session that has ended, after the time that they may take to see it."""
    end = time.monotonic() + seconds
    while True:
        left = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if os.getsid(process.pid) == session and process.status() != "zombie":
                    left.append(f"{process.pid} {process.cmdline()}")
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.2)


def dying(what: Callable[[], int], moments: dict, moment: str, number: int, after: bool):
    """The function, killed at (or just after) the `number`-th call of a moment's function."""

    def doomed() -> int:
        owner, name = moments[moment]
        real, calls = getattr(owner, name), []

        def call(*args, **kwargs):
            calls.append(1)
            if len(calls) == number and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*args, **kwargs)
            if len(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, name, call)
        return what()

    return doomed


def counter(calls: dict[str, int], moment: str, real: Callable) -> Callable:
    """The function; each call is counted under the moment's name."""

    def call(*args, **kwargs):
        calls[moment] += 1
        return real(*args, **kwargs)

    return call


def counted(what: Callable[[], int], moments: dict, into: Path) -> Callable[[], int]:
    """The function; how often each moment came is written to a file."""

    def counting() -> int:
        calls = dict.fromkeys(moments, 0)
        for moment, (owner, name) in moments.items():
            setattr(owner, name, counter(calls, moment, getattr(owner, name)))
        code = what()
        into.write_text(json.dumps(calls))
        return code

    return counting


def orphans(folder: Path) -> list[str]:
    """Processes that still work in a folder, after a moment in which they may end."""
    for _ in range(100):
        left = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                held = [f.path for f in process.open_files()]
                if process.pid != os.getpid() and any(str(folder) in path for path in held):
                    left.append(f"{process.pid} {process.cmdline()}")
        if not left:
            return []
        time.sleep(0.1)
    return left


# --- small disks, little memory -------------------------------------------------------------------


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)


def alone_with_a_disk(folder: Path, what: Callable[[], int]) -> Callable[[], int]:
    """The function, seeing a file system of its own mounted at a folder; 77 where none may be."""

    def mounted() -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        user = 0 if os.geteuid() == 0 else 0x10000000  # CLONE_NEWUSER
        if libc.unshare(0x00020000 | user):  # CLONE_NEWNS
            return 77
        try:
            mount("--make-rprivate", "/")
            mount("-t", "tmpfs", "-o", "size=1m", "disk", str(folder))
        except (OSError, subprocess.CalledProcessError):
            return 77
        return what()

    return mounted


def with_memory(what: Callable[[], int], more: int) -> Callable[[], int]:
    """The function in a process that may take so many bytes more than it has."""

    def limited() -> int:
        most = psutil.Process().memory_info().vms + more
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        return what()

    return limited
