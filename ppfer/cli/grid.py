"""A grid of parameters: its axes, and its cells, checked before anything starts."""

import itertools
import string
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ppfer.base.errors import PpferError
from ppfer.base.files import digest
from ppfer.cli.execute import parameters_of
from ppfer.cli.settings import from_here, here
from ppfer.config import Config, coerce, dotted, load_config, pick
from ppfer.method.networks import band_split
from ppfer.run.names import run_name

RUNS_OWN = ("profile", "seed", "runs_dir", "settings")  # parameters every notebook has


def read_axes(pairs: Sequence[str], file: Path | None = None) -> dict[str, list]:
    """Axes, names to values, from a TOML file and from ``NAME=VALUE,VALUE`` pairs, which win; a
    `PpferError` for what is no grid, an axis without values, or one that is given twice.
    """
    axes: dict[str, list] = {}
    if file:
        try:
            named = dotted(tomllib.loads(file.read_text("utf-8-sig")))
        except (OSError, ValueError) as error:
            raise PpferError(f"{file} is no grid that can be read: {error}") from error
        axes |= {k: v if isinstance(v, list) else [v] for k, v in named.items()}
    given = set()
    for pair in pairs:
        name, _, values = pair.partition("=")
        if name in given:
            raise PpferError(f"--grid {name} is given twice: name all its values at once")
        given.add(name)
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
    """One combination of values."""

    values: dict[str, object]  # what tells it from the other cells, names of axes to values
    config: Config  # of its run
    settings: dict[str, object]  # what makes that of its profile
    parameters: dict[str, object]  # those that only notebooks have
    stages: tuple[str, ...]  # what it makes, if it is not a whole run

    def __str__(self) -> str:
        return ", ".join(f"{name.split('.')[-1]}={value}" for name, value in self.values.items())


def cells_of(
    axes: Mapping[str, list],
    profile: str,
    settings: Mapping[str, object],
    books: Sequence[Path] = (),
    stages: Sequence[str] = (),
) -> list[Cell]:
    """Every combination of the axes' values, the first axis slowest, each checked: a `PpferError`
    for an unknown name, a wrong value, or two cells that are the same.

    Args:
        axes: a name is a setting, a parameter of one of the notebooks, or stands in braces in one
            of the stages.
        profile, settings: what all cells have in common.
        books: notebooks that a cell runs.
        stages: what a cell makes, such as "privacy" or "attack/{approach}".
    """
    given = [parameters_of(book).items() for book in books]
    of_books = {k: v for k, v in itertools.chain.from_iterable(given) if k not in RUNS_OWN}
    in_braces = {name for stage in stages for _, name, *_ in string.Formatter().parse(stage)}
    if lost := sorted(filter(None, in_braces - axes.keys())):
        raise PpferError(f"--stages names {{{lost[0]}}}, and no axis is called that")

    cells: dict[tuple, Cell] = {}
    for combination in itertools.product(*axes.values()):
        values = dict(zip(axes, combination, strict=True))
        own = {k: here(coerce(v, values[k], k)) for k, v in of_books.items() if k in values}
        chosen = {k: v for k, v in values.items() if k not in of_books and k not in in_braces}
        chosen = {**settings, **from_here(chosen)}
        named = str(chosen.pop("profile", profile))
        try:
            config = load_config(named, chosen)
        except PpferError as error:
            also = f"; of the notebooks alone: {', '.join(of_books)}" if of_books else ""
            raise PpferError(f"{error}{also}") from None
        band_split(config)  # knows which wavelets and modes there are
        if own:  # cells whose runs differ in nothing else
            chosen["name"] = f"{run_name(config)}-{digest(own)[:6]}"
            config = load_config(named, chosen)

        # values as they were understood: 1e-4 and 0.0001 are one
        in_stages = {k: str(v) for k, v in values.items() if k in in_braces}
        apart = own | in_stages
        values = {k: apart[k] if k in apart else pick(config, k)[k] for k in values}
        made = tuple(stage.format(**in_stages) for stage in stages)
        cell = Cell(values, config, chosen, own, made)
        if cells.setdefault((run_name(config), made), cell) is not cell:
            raise PpferError(f"two cells of the grid are the same run: {cell}")
    return list(cells.values())
