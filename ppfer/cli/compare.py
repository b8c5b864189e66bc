"""Runs side by side, in one table and one picture; ``ppfer compare``."""

import argparse
import contextlib
import json
import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from ppfer.study.attacks import attributes

COLUMNS = {  # the main table's, in plain words
    "approach": "approach",
    "plr": "identity named: validator as trained",
    "plr_retrained": "identity named: validator retrained",
    "acc": "expression read: recognizer as trained",
    "acc_retrained": "expression read: recognizer retrained",
}
UAR = "mean of classes (UAR)"
WORDS = COLUMNS | {"uar": UAR, "uar_retrained": f"expression: {UAR}, retrained"}
AVERAGED = ("uar", "ssim", "psnr")  # no counts, yet means over runs say something
SHOWN = ("group", "read", "named")  # of each group of people or clips
GUESSING = "guessing"
GUESSED = {"identity": "actor", "expression": "emotion"}  # a title's first word → what is named
# Student's t, 97.5 %, by the number of folds (two have one degree of freedom)
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}


class Result(NamedTuple):
    """A finished run: in which settings it differs from others, its rows, and its `guessing`."""

    run: str
    settings: dict[str, object]
    rows: list[dict]
    guessing: Mapping[str, float] = {}


def guessing(run: Run) -> dict[str, float]:
    """Shares that guessing is right about, of "actor" and "emotion"; {} without a run's clips."""
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
    results = results_of(folders)
    print(by_approach(write_side_by_side(results, tables, name)))
    print(by_guessing(results))
    print(f"\nWith every interval: {tables / name}.md; picture: {tables / name}.png")
    columns = [column.strip() for column in args.by.split(",") if column.strip()]
    rows = []
    for folder in folders if columns else ():
        groups = attributes.grouped(_opened(folder), columns)
        rows += [{"run": folder.name} | row for row in groups]
    if rows:
        measure.write_table(rows, tables, f"{name}-groups")
        for run, approach in dict.fromkeys((row["run"], row["approach"]) for row in rows):
            own = [row for row in rows if (row["run"], row["approach"]) == (run, approach)]
            lines = [{k: short(v) for k, v in row.items() if k in SHOWN} for row in own]
            print(f"\n{run}, {approach}\n{table(lines)}")
        print(f"\nWith every interval: {tables / name}-groups.md")


def _opened(folder: Path) -> Run:
    return catalogue.open_run(config_of(folder), folder.parent)


def results_of(folders: Sequence[Path]) -> list[Result]:
    """Finished runs: their main tables, and the settings in which they differ; a `PpferError` names
    the run that is not there or not finished.
    """
    about, tables = [], []
    for folder in folders:
        if not (folder / "run.json").exists():
            known = [path.parent.name for path in folder.parent.glob("*/run.json")]
            raise PpferError(f"there is no run {folder}{near(folder.name, known)}; see: ppfer runs")
        about.append(run_json(folder))
        tables.append(main_rows(folder))
        if not tables[-1]:
            raise PpferError(f"{folder} has no tables/main.json yet: finish it with ppfer run")

    # of all settings that any run changed, those that are not the same in every one
    keys = dict.fromkeys(key for run in about for key in run["differs"])
    own = [dotted(to_dict(load_config(run["profile"]))) | run["differs"] for run in about]
    own = [{"profile": run["profile"], **{k: o[k] for k in keys}} for run, o in zip(about, own)]
    apart = [k for k in ("profile", *keys) if len({str(o[k]) for o in own}) > 1]
    settings = [{k: o[k] for k in apart} for o in own]
    names = [folder.name for folder in folders]
    return list(map(Result, names, settings, tables, map(guessing, map(_opened, folders))))


def table_of(folder: Path, name: str) -> list[dict]:
    """A table of a run, without what was asked of no clip; [] before there is one."""
    rows = read_json(folder / "tables" / f"{name}.json", [])
    return [{k: v for k, v in row.items() if getattr(as_rate(v), "n", 1)} for row in rows]


def main_rows(folder: Path) -> list[dict]:
    """A run's main table, with the mean of the classes' recalls (UAR) that its Table 2 has."""
    uar = {row["approach"]: {"uar_retrained": row["uar"]} for row in table_of(folder, "table2")}
    return [row | uar.get(row["approach"], {}) for row in table_of(folder, "main")]


def side_by_side(results: Sequence[Result]) -> list[dict]:
    """Tables of several runs as one: "run", what tells runs apart, "approach", and what was
    measured. Runs that differ only in their seed, or only in their fold, have rows of their own and
    one of all, mean and spread; folds also the mean's interval.
    """
    lines = []
    for group in _alike(results, "seed", "fold"):
        for run, settings, rows, _ in group:
            shown = [{k: v for k, v in row.items() if k != "what_ran"} for row in rows]
            lines += [{"run": run, **settings, **row} for row in shown]
        # never over both at once: of each fold its seeds, of each seed its folds
        for axis in ("seed", "fold"):
            for several in _alike(group, axis):
                lines += _together(several, axis)
    return lines


def _alike(results: Sequence[Result], *axes: str) -> list[list[Result]]:
    """Runs in groups that differ in nothing but the axes."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        same = {key: value for key, value in result.settings.items() if key not in axes}
        groups.setdefault(json.dumps(same, default=str), []).append(result)
    return list(groups.values())


def _together(group: Sequence[Result], axis: str) -> list[dict]:
    """Rows of runs that differ in one axis as one; [] of a single run."""
    values = [result.settings.get(axis) for result in group]
    if len(set(values)) < 2:
        return []
    tables, merged = [result.rows for result in group], {}
    with contextlib.suppress(PpferError):  # seeds that measured other clips: no mean of those
        how = {"shares": Spread.of if axis == "seed" else lambda rates: Spread(tuple(rates))}
        merged[", ".join(map(str, values))] = over_seeds(tables, **how)
        if axis == "fold" and len(group) in STUDENT:
            merged["95 % interval"] = over_seeds(tables, shares=interval, means=interval)
    about = {"run": f"{len(group)} {axis}s", **group[0].settings}
    return [about | {axis: of} | r for of, rows in merged.items() for r in rows if len(r) > 1]


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


def mean(values: Sequence[float]) -> str:
    """Mean and sample standard deviation of several runs' values."""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def interval(values: Sequence[Rate | float]) -> str:
    """95 % interval of the mean over folds, by Student's t, as if they shared no training clips."""
    shares = [v.value if isinstance(v, Rate) else v for v in values]
    half = STUDENT[len(shares)] * statistics.stdev(shares) / math.sqrt(len(shares))
    low, high = (min(max(statistics.mean(shares) + by, 0.0), 1.0) for by in (-half, half))
    percent = isinstance(values[0], Rate)
    return f"{100 * low:.1f}–{100 * high:.1f} %" if percent else f"{low:.3f}–{high:.3f}"


def over_seeds(
    tables: Sequence[list[dict]],
    shares: Callable[[list[Rate]], object] = Spread.of,
    means: Callable[[list[float]], object] = mean,
) -> list[dict]:
    """Rows of the same table from several runs as one: every ``{"k", "n"}`` cell becomes what
    `shares` makes of the runs', every one of `AVERAGED` what `means` does; others are left out. A
    `PpferError` if the tables have different rows.
    """
    names = [[row["approach"] for row in rows] for rows in tables]
    if any(other != names[0] for other in names):
        raise PpferError("tables with different rows cannot be put side by side")
    merged = []
    for same in zip(*tables, strict=True):
        row = {"approach": same[0]["approach"]}
        for key in same[0]:
            cells = [as_rate(other.get(key)) or other.get(key) for other in same]
            if all(isinstance(cell, Rate) for cell in cells):
                row[key] = shares(cells)
            elif key.startswith(AVERAGED) and all(isinstance(cell, float) for cell in cells):
                row[key] = means(cells)
        merged.append(row)
    return merged


def pictured(rows: Sequence[Mapping], guessed: Mapping[str, Mapping[str, float]]) -> Figure:
    """Runs side by side: a panel per measure, a line per run or combination of settings, a colour
    per approach; every share in % with its 95 % interval, other numbers as they are. What guessing
    is right about is dashed where identity is named or an expression is read.

    Args:
        rows: as `side_by_side` gives them; means over seeds or folds are left out, since each of
            those has its point.
        guessed: run → what `guessing` says of it.
    """
    # a point per share: which line, which approach, which measure
    points = []
    for row in rows:
        at = list(row).index("approach")
        rest = [f"{k.split('.')[-1]}={row[k]}" for k in list(row)[1:at] if k != "seed"]
        # classes' mean recall has neither count nor interval: the table alone has it
        for key in (k for k in list(row)[at + 1 :] if not k.startswith("uar")):
            share, spread = as_rate(row[key]), [row[key]] * 3
            chance = guessed.get(row["run"], {}).get(GUESSED.get(key.split()[0]))
            if isinstance(share, Rate):
                key, spread = f"{key}, %", [100 * v for v in (share.value, *share.interval)]
            if isinstance(spread[0], (int, float)):
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
        shares = f"dashed: {GUESSING}, {span(own.chance)}" if len(own) else ""
        axis.set_xlabel(shares, fontsize="small")
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
            line = {"run": label or row["run"]}
            lines.append(line | {in_short(k): short(row[k]) for k in measured})
        shown.append(f"\n{approach}\n{table(lines)}")
    return "\n".join(shown)


def by_guessing(results: Sequence[Result]) -> str:
    """What guessing is right about in runs, a line for a terminal; "" where nobody knows."""
    known = {what: [r.guessing.get(of) for r in results] for what, of in GUESSED.items()}
    said = [f"{what} {span(filter(None, shares))}" for what, shares in known.items() if any(shares)]
    return f"\n{GUESSING}: {', '.join(said)}" if said else ""


def span(shares: Iterable[float]) -> str:
    """From the least to the greatest: "8.3 %", "8.3 % to 10.0 %"."""
    ends = min(found := list(shares)), max(found)
    return " to ".join(dict.fromkeys(f"{100 * share:.1f} %" for share in ends))


def in_short(key: str) -> str:
    """A column of the main table or Table 2 in words that fit a terminal; any other as it is."""
    return re.sub(" (named|read)", "", WORDS.get(key, key))


def short(cell: object) -> str:
    """A cell with its count, without its interval: "96.9 % (286/295)"."""
    share = as_rate(cell)
    return cell_text(cell) if share is None else share.short
