"""Progress a person can follow."""

from __future__ import annotations

import os
import sys
import time

from ppfer.base.processes import is_main


class Progress:
    """Progress a person can follow: a plain line every few seconds.

    Lines go to the file named by ``PPFER_PROGRESS`` if set (`ppfer run` relays it to the terminal
    while papermill holds the kernel's output), else to stdout outside a notebook, else to one line
    that is redrawn in the notebook.
    """

    def __init__(self, label: str, total: int, unit: str, every: float = 5.0):
        self.label, self.total, self.unit, self.every = label, total, unit, every
        self.start = self.shown = time.monotonic()
        self.file = os.environ.get("PPFER_PROGRESS")
        self.handle = None

    def update(self, done: int, note: str = "") -> None:
        """Report that `done` of the total is finished; prints at most every few seconds."""
        now = time.monotonic()
        if done < self.total and now - self.shown < self.every:
            return
        self.shown = now
        elapsed = now - self.start
        left = ""
        if 0 < done < self.total:
            left = f", {elapsed / done * (self.total - done):.0f} s left"
        words = (self.label, f"{done}/{self.total}", self.unit, note, f"{elapsed:.0f} s{left}")
        self._say(" ".join(word for word in words if word))

    def _say(self, line: str) -> None:
        if self.file:
            with open(self.file, "a") as stream:
                stream.write(line + "\n")
        elif "ipykernel" in sys.modules and sys.modules["IPython"].get_ipython():
            from IPython.display import display  # only where a notebook has imported it already

            if self.handle is None:
                self.handle = display({"text/plain": line}, raw=True, display_id=True)
            else:
                self.handle.update({"text/plain": line}, raw=True)
        elif is_main():
            print(line, flush=True)
