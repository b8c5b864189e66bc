"""Progress a person can follow."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ppfer.base.processes import is_main

FILE = "PPFER_PROGRESS"  # the variable that names a file for lines of progress


class Progress:
    """Progress a person can follow: a plain line every few seconds.

    Lines go to the file named by ``PPFER_PROGRESS`` if set (`ppfer run` relays it to the terminal
    while papermill holds the kernel's output), else to stdout outside a notebook, else to one line
    that is redrawn in the notebook.

    Args:
        label: what is being done, e.g. a stage.
        total: how much there is to do.
        unit: what is counted.
        every: seconds between lines.
        done: how much an earlier call has done: it took none of this one's time.
    """

    def __init__(self, label: str, total: int, unit: str, every: float = 5.0, *, done: int = 0):
        self.label, self.total, self.unit, self.every = label, total, unit, every
        self.first = done
        self.start = self.shown = time.monotonic()
        self.file = os.environ.get(FILE)
        self.handle = None

    def update(self, done: int, note: str = "") -> None:
        """Report that `done` of the total is finished; prints at most every few seconds."""
        now = time.monotonic()
        if done < self.total and now - self.shown < self.every:
            return
        self.shown = now
        elapsed = now - self.start
        left = ""
        if self.first < done < self.total:
            left = elapsed / (done - self.first) * (self.total - done)
            left = f", {left:.0f} s left"
        words = (self.label, f"{done}/{self.total}", self.unit, note, f"{elapsed:.0f} s{left}")
        self._say(" ".join(word for word in words if word))

    def _say(self, line: str) -> None:
        if self.file:
            say(line)
        elif "ipykernel" in sys.modules and sys.modules["IPython"].get_ipython():
            from IPython.display import display  # only where a notebook has imported it already

            if self.handle is None:
                self.handle = display({"text/plain": line}, raw=True, display_id=True)
            else:
                self.handle.update({"text/plain": line}, raw=True)
        else:
            say(line)


def say(line: str) -> None:
    """A line for whoever waits: into the file that is followed, if there is one, else printed."""
    if file := os.environ.get(FILE):
        with open(file, "a", encoding="utf-8") as stream:
            stream.write(line + "\n")
    elif is_main():
        print(line, flush=True)


@contextlib.contextmanager
def following(
    file: Path, show: Callable[[list[str]], object], every: float = 0.3
) -> Iterator[None]:
    """While the block runs, hand on what other processes write to a file of progress.

    Args:
        file: made empty; what goes there is named by ``PPFER_PROGRESS``.
        show: called every so many seconds, and at the end, with the lines that came; often none.
    """
    file.write_text("", encoding="utf-8")
    over = threading.Event()

    def follow() -> None:
        with file.open(encoding="utf-8") as stream:
            while not over.wait(every):
                show(stream.read().splitlines())
            show(stream.read().splitlines())

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
