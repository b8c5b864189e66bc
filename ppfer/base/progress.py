"""Progress a person can follow."""

import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ppfer.base.processes import is_main

FILE = "PPFER_PROGRESS"  # the variable that names a file for lines of progress
EVERY, LOOK = 5.0, 0.3  # seconds between lines, and between looks into the file


class Progress:
    """A plain line every few seconds: into the file that is followed (`ppfer run` relays it while
    papermill holds the kernel's output), else to stdout or, in a notebook, redrawn in place.

    Args:
        label: what is being done, e.g. a stage.
        done: how much of the total an earlier call has done: it took none of this one's time.
    """

    def __init__(self, label: str, total: int, unit: str, *, done: int = 0):
        self.label, self.total, self.unit, self.first = label, total, unit, done
        self.start = self.shown = time.monotonic()
        self.handle = None

    def update(self, done: int, note: str = "") -> None:
        """Report that `done` of the total is finished."""
        now = time.monotonic()
        if done < self.total and now - self.shown < EVERY:
            return
        self.shown, elapsed, left = now, now - self.start, ""
        if self.first < done < self.total:
            left = elapsed / (done - self.first) * (self.total - done)
            left = f", {left:.0f} s left"
        words = (self.label, f"{done}/{self.total}", self.unit, note, f"{elapsed:.0f} s{left}")
        self._say(" ".join(word for word in words if word))

    def _say(self, line: str) -> None:
        kernel = "ipykernel" in sys.modules and sys.modules["IPython"].get_ipython()
        if FILE in os.environ or not kernel:
            say(line)
        elif self.handle:
            self.handle.update({"text/plain": line}, raw=True)
        else:
            from IPython.display import display  # only where a notebook has imported it already

            self.handle = display({"text/plain": line}, raw=True, display_id=True)


def say(line: str) -> None:
    """A line for whoever waits: into the file that is followed, if there is one, else printed."""
    if file := os.environ.get(FILE):
        with open(file, "a", encoding="utf-8") as stream:
            stream.write(line + "\n")
    elif is_main():
        print(line, flush=True)


@contextlib.contextmanager
def following(file: Path, show: Callable[[list[str]], object]) -> Iterator[None]:
    """While the block runs, hand on what other processes, for which ``PPFER_PROGRESS`` names the
    file, write to it; `show` is called every moment, and at the end, with the lines that came.
    """
    file.write_text("", encoding="utf-8")
    over = threading.Event()

    def follow() -> None:
        with file.open(encoding="utf-8") as stream:
            while not over.wait(LOOK):
                show(stream.read().splitlines())
            show(stream.read().splitlines())

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def relayed(show: Callable[[list[str]], object]) -> Iterator[None]:
    """`following` for what this process and its children say while the block runs, unless whoever
    started this process follows it already.
    """
    if FILE in os.environ or not is_main():
        yield
        return
    with tempfile.TemporaryDirectory(prefix="ppfer-") as folder:
        os.environ[FILE] = os.path.join(folder, "progress.txt")
        try:
            with following(Path(os.environ[FILE]), show):
                yield
        finally:
            os.environ.pop(FILE, None)
