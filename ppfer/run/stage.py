"""What a run can make: stages, each a small class, and protectors, each a row of the tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ppfer.base.errors import PpferError
from ppfer.config import pick

COMPARING = "08"  # the first notebook that compares methods: what it makes the main run does not

# --- stages -------------------------------------------------------------------


def stage(
    name: str,
    *,
    needs: tuple[str, ...] = (),
    settings: tuple[str, ...] = (),
    notebook: str,
    alone: bool = False,
    version: int = 1,
) -> Callable[[type[Stage]], type[Stage]]:
    """Describe a stage class; nothing is registered.

    Args:
        name: "identity", or with an argument "attack/{protector}", which becomes the attribute
            ``protector``. An argument that the class has a value for may be left out.
        needs: stages whose results go in; may name the argument, "protected/{protector}".
        settings: fields of the config that the result depends on besides, dotted where they lie
            deeper.
        notebook: number of the notebook that makes it, for the reader's sake; see `COMPARING`.
        alone: made by the main process only while the others wait; training stages are made by all
            together.
        version: raised when the same settings and inputs no longer give the same result, so that
            what older code made is made again.
    """

    def describe(cls: type[Stage]) -> type[Stage]:
        cls.kind, _, argument = name.partition("/")
        cls.argument = argument.strip("{}")
        cls.named_needs, cls.named_settings = needs, settings
        cls.notebook, cls.alone, cls.version = notebook, alone, version
        return cls

    return describe


class Stage:
    """One step of the pipeline in a run: what it stands on, how it is made, how it is loaded."""

    kind: str
    argument: str
    named_needs: tuple[str, ...]
    named_settings: tuple[str, ...]
    notebook: str
    alone: bool
    version: int

    def __init__(self, run: Any, value: str = ""):
        self.run, self.config = run, run.config
        if value and not self.argument:
            raise PpferError(f"stage {self.kind} takes no '/{value}'")
        if not value and self.argument and not hasattr(self, self.argument):
            raise PpferError(f"stage {self.kind} needs a {self.argument}: {self.kind}/NAME")
        self.name = f"{self.kind}/{value}" if value else self.kind
        if value:
            setattr(self, self.argument, value)

    def needs(self) -> tuple[str, ...]:
        """Names of the stages whose results go in."""
        values = {self.argument: getattr(self, self.argument)} if self.argument else {}
        return tuple(need.format(**values) for need in self.named_needs)

    def settings(self) -> dict:
        """Everything else the result depends on, JSON types."""
        return pick(self.config, *self.named_settings)

    def origin(self) -> str:
        """Number of the notebook that makes it."""
        return self.notebook

    make: Callable[[Path], dict]  # leaves files in a folder; a summary for the manifest
    load: Callable[[Path], Any]  # the result, from what `make` left

    def lighter(self) -> str:
        """What to change when the GPU's memory does not suffice."""
        return "--set size=SMALLER"


# --- protectors ---------------------------------------------------------------


@dataclass(frozen=True)
class Protector:
    """A row of the tables: a way of protecting clips."""

    name: str  # its folder's, too
    title: str
    build: Callable[[Any], Callable[..., Tensor]]  # ``build(run)``: clips → clips, `ppfer.protect`
    # what exactly this is, in one line; or ``what_ran(run)`` that says it once it is made
    what_ran: str | Callable[[Any], str]
    needs: tuple[str, ...] = ()  # stages it stands on
    settings: tuple[str, ...] = ()  # of the config, on which its clips depend besides those stages
    notebook: str = COMPARING  # which makes its inputs
    # pixels a side at which it protects videos; 0: as a run's clips, to whose people it belongs
    size: int = 0
    # it belongs to the people of a run whatever its size; else, with a size, it needs no run
    learned_here: bool = False
    # the built callable takes (clips, names): of a run's clips, or "<video> <track>" in a video
    named: bool = False
    # ``symbols(run)``: of how many one is all that passes, and the ε of randomised answers, 0
    # for true ones; no symbols where more than that passes
    symbols: Callable[[Any], tuple[int, float]] = lambda run: (0, 0.0)
    # another whose stored clips only need compensating (``build`` gives a `PPFER`): saves a pass
    compensates: str = ""
    version: int = 1  # raised when the same settings and inputs no longer give the same clips
    # ``missing(run)``: what to install or to give before it can run; "" when nothing is missing
    missing: Callable[[Any], str] = lambda run: ""

    @property
    def for_anybody(self) -> bool:
        """Whether it protects anybody's video without a run."""
        return bool(self.size) and not self.learned_here

    def description(self, run: Any) -> str:
        """What exactly this protector is in a run."""
        return self.what_ran if isinstance(self.what_ran, str) else self.what_ran(run)
