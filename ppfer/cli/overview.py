"""How far a command is, on one line: which stage of how many, minutes left, what is done now."""

import contextlib
import json
import re
import time
from collections.abc import Mapping, Sequence

from ppfer.base.errors import PpferError
from ppfer.config import REPO
from ppfer.run.run import Run
from ppfer.study import tables
from ppfer.study.attacks import recovery
from ppfer.study.protectors import ablation

COSTS = REPO / "figures" / "demo" / "manifest.json"  # seconds a stage, as measured for the page
SHORTEST = 5.0  # seconds of measured work that tell a machine's speed
QUIET = 10.0  # seconds without news until a line says that there is none
ASKED = ("probe", "blur", "attribute")  # kinds that notebooks ask for besides rows of tables
WORDS = {  # what the stages of a kind do
    "clips": "decode clips",
    "wild": "decode clips in the wild",
    "split": "choose test clips",
    "identity": "learn who is who",
    "probe": "who or what one view shows",
    "pretrain": "learn to copy pictures",
    "privacy": "learn to hide who it is",
    "expression": "learn expressions in the wild",
    "compensation": "learn to bring expressions back",
    "protected": "protect all clips",
    "recognizer": "learn to read expressions",
    "attack": "learn who it is from protected clips",
    "attack_linear": "an attacker who looks at thumbnails",
    "attack_scratch": "an attacker with new weights",
    "attack_other": "an attacker of another family",
    "attack_clips": "an attacker who sees movement",
    "attribute": "learn sex, age or race",
    "features": "read frozen networks' features",
    "recovery": "learn to undo a protection",
    "linkage": "match strangers' clips",
    "numbers": "read movements off protected clips",
    "within": "attack from within",
    "actions": "learn to read facial actions",
    "motions": "look up the true facial actions",
    "steadiness": "measure flicker",
    "live": "hide from attackers who learn",
    "regressor": "learn to read movements",
    "strangers": "let strangers act",
    "codebook": "learn a codebook of performances",
    "names": "learn to name expressions",
    "imported": "take a protector from a file",
    "blurred": "read blurred clips",
    "blur": "look for a blur as strong",
    "contrast": "learn who is who without names",
    "tradeoff": "train the trade-off framework",
    "landmarks": "find landmarks",
    "deface_faces": "find faces",
    "joint": "train without controllers",
}


def planned(run: Run, notebooks: Sequence[str]) -> dict[str, float]:
    """Stages that notebooks make → seconds that each took where the page's were measured."""
    costs, made = json.loads(COSTS.read_text("utf-8")), set()
    rows = {"08": tables.approaches(run), "09": tables.approaches(run, recovery.MORE)}
    rows |= {"10": [task.protector for task in ablation.TASKS], "11": tables.beyond(run)}
    for name in costs:
        with contextlib.suppress(PpferError):  # of another config, or there is none any more
            stage, (kind, _, value) = run.stage(name), name.partition("/")
            row = stage.argument == "protector" and kind != "features"  # which the page adds
            if kind in ASKED or row and value in rows.get(made_in(run, name), [value]):
                made |= set(run.with_needs(name))
    asked = (name for name in costs if name in made and made_in(run, name) in notebooks)
    return {name: float(costs[name]["seconds"]) for name in asked}


def made_in(run: Run, name: str) -> str:
    """The notebook that makes a stage: none before those that make what the stage stands on."""
    return max(run.stage(need).origin() for need in run.with_needs(name))


class Overview:
    """Prints lines of progress behind how far all is; called every moment, often with no line.

    Args:
        costs: stage → seconds it takes on the machine where it was measured; what has been finished
            tells this machine's speed.
        notebooks: how many there are; each takes a while besides its stages.

    Attributes:
        notebook: which one of those runs, from 1.
    """

    def __init__(self, run: Run, costs: Mapping[str, float], notebooks: int = 0):
        self.run, self.costs = run, dict(costs)
        self.left = {name for name in costs if not self._finished(name)}
        self.notebook, self.notebooks = 0, notebooks
        self.began = self.shown = self.counted = time.monotonic()
        self.measured = self.spent = 0.0  # seconds of what was finished since: there, and here
        self.part = 0.0  # of the stage that is being made, in seconds there

    def __call__(self, lines: list[str]) -> None:
        now = time.monotonic()
        if lines or now - self.counted > QUIET:
            self._count(now)
        for line in lines:
            if counted := re.match(r"\s*(\S+) (\d+)/(\d+) ", line):
                share = int(counted[2]) / int(counted[3])
                self.part = share * self.costs.get(counted[1], 0) * (counted[1] in self.left)
            self._print(in_words(self.run, line), now)
        if now - self.shown > QUIET:
            self._print("at work", now)

    def begin(self, count: int, number: str) -> None:
        """Say that a notebook begins, the count-th; what earlier ones have not made is not part of
        this run: its profile has fewer stages than the page's.
        """
        self._count(time.monotonic())
        for name in [n for n in self.left if made_in(self.run, n) < number]:
            self.left.remove(name)
            del self.costs[name]
        self.notebook = count

    def _count(self, now: float) -> None:
        for name in [name for name in self.left if self._finished(name)]:
            self.left.remove(name)
            self.measured += self.costs[name]
            self.spent += self.run.manifest(name)["seconds"]
            self.part = 0.0
        self.counted = now

    def _print(self, words: str, now: float) -> None:
        print(f"{self.position()} {words}", flush=True)
        self.shown = now

    def position(self) -> str:
        """ "[23 of 61 stages, about 9 min left]"."""
        place = f"{len(self.costs) - len(self.left)} of {len(self.costs)} stages"
        left = self.seconds_left()
        return f"[{place}{'' if left is None else f', about {minutes(left)} left'}]"

    def seconds_left(self) -> float | None:
        """Of all stages and notebooks, by this machine's speed; None while nobody can tell."""
        if self.measured >= SHORTEST:
            slower = self.spent / self.measured
        elif self.run.config.profile == "demo":  # measured, so that there is a first guess
            slower = 1.0
        else:
            return None
        stages = slower * max(0.0, sum(self.costs[name] for name in self.left) - self.part)
        besides = self.counted - self.began - self.spent - slower * self.part
        begun = max(1, self.notebook)
        return stages + max(0.0, besides) / begun * max(0, self.notebooks - begun)

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
    return f"{WORDS.get(kind, 'make')} ({name}) {rest}"
