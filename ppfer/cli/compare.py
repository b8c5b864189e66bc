"""Runs side by side, in one table and one picture; ``ppfer compare``."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ppfer import measure
from ppfer.base.errors import PpferError, near
from ppfer.base.files import atomic, digest, read_json
from ppfer.cli.terminal import table
from ppfer.config import dotted, load_config, to_dict
from ppfer.measure import Rate, Spread, as_rate, cell_text
from ppfer.run.names import config_of, run_json
from ppfer.run.run import Run
from ppfer.show import plots
from ppfer.study import catalogue

COLUMNS = {  # the main table's, in plain words
    "approach": "approach",
    "plr": "identity named: validator as trained",
    "plr_retrained": "identity named: validator retrained",
    "acc": "expression read: recognizer as trained",
    "acc_retrained": "expression read: recognizer retrained",
}
GUESSING = "guessing"
GUESSED = {"identity": "actor", "expression": "emotion"}  # a title's first word → what is named


class Result(NamedTuple):
    """A finished run: the settings in which it differs from those beside it, its rows, and what
    `guessing` says of it.
    """

    run: str
    settings: dict[str, object]
    rows: list[dict]
    guessing: Mapping[str, float]


def guessing(run: Run) -> dict[str, float]:
    """Shares in [0, 1] that guessing is right about, of "actor" and "emotion"; nothing where a
    run's clips are not there.
    """
    try:
        return {column: run.chance(column) for column in GUESSED.values()}
    except PpferError:
        return {}


def compare(args: argparse.Namespace) -> None:
    """Show finished runs side by side."""
    given = [Path(name) for name in args.names]
    folders = [path if path.is_dir() else args.runs_dir / path for path in given]
    name = "compared-" + digest(sorted(folder.name for folder in folders))[:6]
    tables = args.runs_dir / "tables"
    print(by_approach(write_side_by_side(results_of(folders), tables, name)))
    print(f"\nWith every interval: {tables / name}.md; picture: {tables / name}.png")


def results_of(folders: Sequence[Path]) -> list[Result]:
    """Finished runs: their main tables, and the settings in which they differ.

    Raises:
        PpferError: naming the run that is not there or not finished.
    """
    about, tables = [], []
    for folder in folders:
        if not (folder / "run.json").exists():
            known = [path.parent.name for path in folder.parent.glob("*/run.json")]
            raise PpferError(f"there is no run {folder}{near(folder.name, known)}; see: ppfer runs")
        about.append(run_json(folder))
        tables.append(read_json(folder / "tables" / "main.json", []))
        if not tables[-1]:
            raise PpferError(f"{folder} has no tables/main.json yet: finish it with ppfer run")

    # of all settings that any run changed, those that are not the same in every one
    keys = dict.fromkeys(key for run in about for key in run["differs"])
    own = [dotted(to_dict(load_config(run["profile"]))) | run["differs"] for run in about]
    own = [{"profile": run["profile"], **{k: o[k] for k in keys}} for run, o in zip(about, own)]
    apart = [k for k in ("profile", *keys) if len({str(o[k]) for o in own}) > 1]
    settings = [{k: o[k] for k in apart} for o in own]
    names = [folder.name for folder in folders]
    runs = [catalogue.open_run(config_of(folder), folder.parent) for folder in folders]
    return list(map(Result, names, settings, tables, map(guessing, runs)))


def side_by_side(results: Sequence[Result]) -> list[dict]:
    """Tables of several runs as one; runs that differ only in their seed have rows of their own and
    one of all, mean and spread.

    Returns:
        Rows "run", what tells runs apart, "approach" and what was measured.
    """
    alike: dict[str, list[Result]] = {}  # runs that differ in nothing but the seed
    for result in results:
        same = {key: value for key, value in result.settings.items() if key != "seed"}
        rows = [{k: v for k, v in row.items() if k != "what_ran"} for row in result.rows]
        group = alike.setdefault(json.dumps(same, default=str), [])
        group.append(result._replace(rows=rows))
    lines = []
    for group in alike.values():
        lines += [{"run": one.run, **one.settings, **row} for one in group for row in one.rows]
        seeds = [result.settings.get("seed") for result in group]
        if len(set(seeds)) < 2:
            continue
        with contextlib.suppress(PpferError):  # they measured other clips: no mean of those
            of = {**group[0].settings, "seed": ", ".join(map(str, seeds))}
            merged = over_seeds([result.rows for result in group])
            lines += [{"run": f"{len(group)} seeds", **of, **row} for row in merged if len(row) > 1]
    return lines


def write_side_by_side(results: Sequence[Result], folder: Path, name: str) -> list[dict]:
    """The one table of `side_by_side` and its picture, ``<name>.json``, ``.md`` and ``.png``."""
    rows = side_by_side(results)
    matplotlib.use("Agg")
    plots.theme()
    in_words = [{COLUMNS.get(k, k): v for k, v in row.items()} for row in rows]
    figure = pictured(in_words, {result.run: result.guessing for result in results})
    with atomic(folder / f"{name}.png") as partial:
        figure.savefig(partial, bbox_inches="tight", dpi=110)
    plt.close(figure)
    return measure.write_table(rows, folder, name)


def over_seeds(tables: Sequence[list[dict]]) -> list[dict]:
    """Rows of the same table from several runs as one: every ``{"k", "n"}`` cell becomes a
    `Spread`.

    Other cells are left out.

    Raises:
        PpferError: if the tables have different rows.
    """
    names = [[row["approach"] for row in rows] for rows in tables]
    if any(other != names[0] for other in names):
        raise PpferError("tables with different rows cannot be put side by side")
    merged = []
    for same in zip(*tables, strict=True):
        keys = [key for key, cell in same[0].items() if isinstance(as_rate(cell), Rate)]
        row = {key: Spread.of(as_rate(row[key]) for row in same) for key in keys}
        merged.append({"approach": same[0]["approach"]} | row)
    return merged


def pictured(rows: Sequence[Mapping], guessed: Mapping[str, Mapping[str, float]]) -> Figure:
    """Runs side by side: a panel per measure, a line per run or combination of settings, a colour
    per approach; every share in % with its 95 % interval, other numbers as they are. What guessing
    is right about is dashed where identity is named or an expression is read.

    Args:
        rows: as `side_by_side` gives them; means over seeds are left out, since each
            seed has its point.
        guessed: run → what `guessing` says of it.
    """
    # a point per share: which line, which approach, which measure
    points = []
    for row in rows:
        at = list(row).index("approach")
        rest = [f"{k.split('.')[-1]}={row[k]}" for k in list(row)[1:at] if k != "seed"]
        for key in list(row)[at + 1 :]:
            share, spread = as_rate(row[key]), [row[key]] * 3
            chance = guessed.get(row["run"], {}).get(GUESSED.get(key.split()[0]))
            if isinstance(share, Rate):
                key, spread = f"{key}, %", [100 * v for v in (share.value, *share.interval)]
            if share is None or isinstance(share, Rate):
                line = ", ".join(rest) or row["run"]
                points.append((line, row["approach"], key, *spread, chance))
    columns = ["run", "approach", "measure", "value", "low", "high", "chance"]
    data = pd.DataFrame(points, columns=columns).astype({"chance": float})

    # approaches side by side within a line, intervals behind them, one scale for all shares
    lines, named = list(data.run.unique()), list(data.approach.unique())
    shift = data.approach.map(named.index) - (len(named) - 1) / 2
    data["middle"] = data.run.map(lines.index)
    data["line"] = data.middle + 0.6 * shift / max(1, len(named))
    height = 1.9 + 0.3 * len(lines)
    look = {"height": height, "aspect": 3.2 / height, "facet_kws": {"sharex": False}}
    what = {"x": "value", "y": "line", "hue": "approach", "style": "approach"}
    grid = sns.relplot(data, **what, col="measure", col_wrap=2, **look)
    for name, axis in grid.axes_dict.items():
        own = data[data.measure == name]
        axis.hlines(own.line, own.low, own.high, color="0.6", linewidth=1, zorder=0)
        axis.set_xlim((-2, 102) if name.endswith("%") else None)
        axis.set_title(name.replace(": ", "\n"), fontsize="medium")

        # guessing, in each line for itself: runs on other clips have another chance
        own = own.dropna(subset="chance").drop_duplicates(["middle", "chance"])
        low, high = own.middle - 0.5, own.middle + 0.5
        axis.vlines(100 * own.chance, low, high, "0.4", "--", label=GUESSING, zorder=0)
        ends = sorted(own.chance)[:1] + sorted(own.chance)[-1:]
        shares = " to ".join(dict.fromkeys(f"{100 * share:.1f} %" for share in ends))
        axis.set_xlabel(f"dashed: {GUESSING}, {shares}" if ends else "", fontsize="small")
    grid.set(yticks=range(len(lines)), yticklabels=lines, ylabel="")
    grid.set(ylim=(len(lines) - 0.5, -0.5))
    return grid.tight_layout().figure


def by_approach(rows: list[dict]) -> str:
    """Rows of `side_by_side` for a terminal: a table for each approach, a line for each run."""
    shown = []
    for approach in dict.fromkeys(row["approach"] for row in rows):
        lines = []
        for row in (row for row in rows if row["approach"] == approach):
            at = list(row).index("approach")
            settings, measured = list(row)[1:at], list(row)[at + 1 :]
            label = " ".join(f"{k.split('.')[-1]}={cell_text(row[k])}" for k in settings)
            lines.append(
                {"run": label or row["run"], **{in_short(k): short(row[k]) for k in measured}}
            )
        shown.append(f"\n{approach}\n{table(lines)}")
    return "\n".join(shown)


def in_short(key: str) -> str:
    """A column of the main table in words that fit a terminal; any other as it is."""
    return re.sub(" (named|read)", "", COLUMNS.get(key, key))


def short(cell: object) -> str:
    """A cell with its count, without its interval: "96.9 % (286/295)"."""
    share = as_rate(cell)
    return cell_text(cell) if share is None else share.short
