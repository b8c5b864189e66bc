"""A grid of parameters: its axes, and its cells, checked before anything starts."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ppfer.base.errors import PpferError
from ppfer.base.files import digest
from ppfer.cli.execute import parameters_of
from ppfer.config import Config, coerce, dotted, load_config, pick
from ppfer.method.networks import band_split
from ppfer.run.names import run_name

RUNS_OWN = ("profile", "seed", "runs_dir", "settings")  # parameters every notebook has


def read_axes(pairs: Sequence[str], file: Path | None = None) -> dict[str, list]:
    """Axes, names to values, from a TOML file and from ``NAME=VALUE,VALUE`` pairs, which win.

    Raises:
        PpferError: for what is no grid, or an axis without values.
    """
    axes: dict[str, list] = {}
    if file:
        try:
            named = dotted(tomllib.loads(file.read_text()))
        except (OSError, ValueError) as error:
            raise PpferError(f"{file} is no grid that can be read: {error}") from error
        axes |= {k: v if isinstance(v, list) else [v] for k, v in named.items()}
    for pair in pairs:
        name, _, values = pair.partition("=")
        axes[name] = values.split(",") if values else []
        if "" in axes[name]:
            raise PpferError(f"--grid takes NAME=VALUE,VALUE without gaps, got '{pair}'")
    empty = [name for name, values in axes.items() if not values]
    if empty or not axes:
        what = f"axis '{empty[0]}' has no values" if empty else "there is no axis"
        raise PpferError(f"{what}; a grid is e.g. --grid privacy.lr=1e-5,1e-4 --grid seed=0,1,2")
    return axes


@dataclass(frozen=True)
class Cell:
    """One combination of values.

    Attributes:
        said: what tells it from the other cells, names to values.
        config: of its run; ``settings`` are what makes it of its profile.
        parameters: those that only notebooks have.
    """

    said: dict[str, object]
    config: Config
    settings: dict[str, object]
    parameters: dict[str, object]

    def __str__(self) -> str:
        return ", ".join(f"{name.split('.')[-1]}={value}" for name, value in self.said.items())


def cells_of(
    axes: Mapping[str, list], profile: str, settings: Mapping[str, object], books: Sequence[Path]
) -> list[Cell]:
    """Every combination of the axes' values, the first axis slowest, each checked.

    Args:
        axes: a name is a setting, or a parameter of one of the notebooks.
        profile, settings: what all cells have in common.
        books: notebooks that a cell runs.

    Raises:
        PpferError: for an unknown name, a wrong value, or two cells that are the same.
    """
    given = [parameters_of(book).items() for book in books]
    own = {k: v for k, v in itertools.chain.from_iterable(given) if k not in RUNS_OWN}
    cells: dict[str, Cell] = {}
    for values in itertools.product(*axes.values()):
        said = dict(zip(axes, values, strict=True))
        mine = {k: coerce(own[k], said[k], k) for k in own.keys() & said.keys()}
        chosen = {**settings, **{k: v for k, v in said.items() if k not in own}}
        named = str(chosen.pop("profile", profile))
        try:
            config = load_config(named, chosen)
        except PpferError as error:
            also = f"; of the notebooks alone: {', '.join(own)}" if own else ""
            raise PpferError(f"{error}{also}") from None
        band_split(config)  # knows which wavelets and modes there are
        if mine:  # cells whose runs differ in nothing else
            chosen["name"] = f"{run_name(config)}-{digest(mine)[:6]}"
            config = load_config(named, chosen)
        said = {k: mine[k] if k in mine else pick(config, k)[k] for k in said}
        cell = Cell(said, config, chosen, mine)
        if run_name(config) in cells:
            raise PpferError(f"two cells of the grid are the same run: {cell}")
        cells[run_name(config)] = cell
    return list(cells.values())
