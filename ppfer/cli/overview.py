"""How far a command is, on one line: which stage of how many, minutes left, what is done now."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ppfer.base.errors import PpferError
from ppfer.base.progress import FILE, following
from ppfer.config import REPO
from ppfer.run.run import Run
from ppfer.run.stage import Stage

COSTS = REPO / "figures" / "demo" / "manifest.json"  # seconds a stage, as measured for the page
WIDE, SHORTEST = 100, 5.0  # columns of a terminal; seconds of measured work that tell its speed
QUIET = 10.0  # seconds without news until a line says that there is none


@contextlib.contextmanager
def overview(run: Run, notebooks: Iterable[str]) -> Iterator[None]:
    """While the block runs, show how far it is, whichever process makes the stages.

    Args:
        run: what is made.
        notebooks: numbers of the notebooks whose stages are made.
    """
    if FILE in os.environ:  # whoever started this command follows it already
        yield
        return
    with tempfile.TemporaryDirectory(prefix="ppfer-") as folder:
        file = Path(folder) / "progress.txt"
        os.environ[FILE] = str(file)
        try:
            with following(file, Overview(run, planned(run, notebooks))):
                yield
        finally:
            os.environ.pop(FILE, None)


def planned(run: Run, notebooks: Iterable[str]) -> dict[str, float]:
    """Stages that notebooks make → seconds that each took where the page's were measured."""
    numbers, found = set(notebooks), {}
    for name, about in json.loads(COSTS.read_text()).items():
        with contextlib.suppress(PpferError):  # of another config, or there is none any more
            if run.stage(name).origin()[1] in numbers:
                found[name] = float(about["seconds"])
    return found


class Overview:
    """Prints lines of progress behind how far all is; called every moment, often with no line.

    Args:
        run: whose stages are counted.
        costs: stage → seconds it takes on the machine where it was measured; this machine's speed
            is told by what has been finished.
    """

    def __init__(self, run: Run, costs: Mapping[str, float]):
        self.run, self.costs = run, dict(costs)
        self.left = {name for name in costs if not self._finished(name)}
        self.began = self.said = self.counted = time.monotonic()
        self.work, self.last = sum(self.costs[name] for name in self.left), ""

    def __call__(self, lines: list[str]) -> None:
        now = time.monotonic()
        if lines or now - self.counted > QUIET:
            self.left = {name for name in self.left if not self._finished(name)}
            self.counted = now
        for line in lines:
            self._print(in_words(self.run, line))
            self.last, self.said = line.split(" ", 1)[0], now
        if now - self.said > QUIET:
            self._print("at work")
            self.said = now

    def _print(self, words: str) -> None:
        print(f"{self.position()} {words}", flush=True)

    def position(self) -> str:
        """ "[23 of 61 stages, about 9 min left]"."""
        place = f"{len(self.costs) - len(self.left)} of {len(self.costs)} stages"
        left = self.seconds_left()
        return f"[{place}{'' if left is None else f', about {minutes(left)} left'}]"

    def seconds_left(self) -> float | None:
        """Of all that is left, by this machine's speed; None as long as nobody can tell."""
        left = sum(self.costs[name] for name in self.left)
        done = self.work - left
        if done >= SHORTEST:
            return left * (self.counted - self.began) / done
        return left if self.run.config.profile == "demo" else None

    def _finished(self, name: str) -> bool:
        try:
            return self.run.has(name)
        except (PpferError, OSError):  # its inputs are not there yet, or are being written
            return False


def minutes(seconds: float) -> str:
    """A time as one says it: "40 s", "9 min", "2.5 h"."""
    if seconds < 90:
        return f"{max(1, round(seconds / 10)) * 10} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def in_words(run: Run, line: str) -> str:
    """A line of progress with what its stage does before the stage's name."""
    name, _, rest = line.strip().partition(" ")
    kind, _, value = name.partition("/")
    if kind not in run.stages:
        return line.strip()
    room = WIDE - 40 - len(name) - len(rest)  # what stands before it is 36 columns at most
    words = title(run.stages[kind])
    return f"{words if len(words) <= max(room, 24) else kind}: {name} {rest}"


def title(stage: type[Stage]) -> str:
    """What a stage makes, from the first words of its description."""
    words = " ".join((inspect.getdoc(stage) or stage.kind).split("\n\n")[0].split())
    words = re.sub(r"^(V|C_fc|F_u|Algorithm \d)(: | )", "", words) if ": " in words[:14] else words
    return re.split(r"[.,:;(]", words)[0].strip()
