"""Results of synthetic runs for the repository: tables and pictures in figures/, several seeds side
by side, README blocks.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ppfer import measure
from ppfer.base import files
from ppfer.base.errors import PpferError, near
from ppfer.cli import execute
from ppfer.config import REPO, Config, dotted, load_config, to_dict
from ppfer.run import Run
from ppfer.run.names import ASIDE, run_name
from ppfer.show import diagram, plots, tradeoff

PAGES = ("README.md", "figures/README.md", "figures/bench/README.md")  # hold tables from files
LIST = re.compile(r"<!-- notebooks -->.*?<!-- end -->", re.DOTALL)
MAP = (
    "Map of the method: original (V) is split into bands, one enhancer each (F_hpr, F_lpr) under "
    "frozen identity controllers makes protected (G), the compensator (F_fc) makes compensated "
    "(C), which the recognizer (F_u) and the leakage validator (V_pl) read"
)
README_COLUMNS = {  # the main table's, in plain words
    "approach": "approach",
    "plr": "identity named: validator as trained",
    "plr_retrained": "identity named: validator retrained",
    "acc": "expression read: recognizer as trained",
    "acc_retrained": "expression read: recognizer retrained",
}


def publish(run: Run) -> None:
    """Copy a synthetic run's tables to ``figures/<profile>/``, draw the README's pictures and fill
    the pages' tables.
    """
    matplotlib.use("Agg")
    folder = keep_tables(run.dir / "tables", run.config.profile, len(run.classes("actor")))
    files.write_json(folder / "manifest.json", finished(run.dir))
    for name, (figure, alt) in plots.overview(run).items():
        if isinstance(figure, Figure):
            (folder / f"{name}.svg").write_text(plots.svg(figure, alt))
        else:
            (folder / f"{name}.png").write_bytes(plots.png(figure))
    draw_maps()
    fill_pages()


def keep_tables(made: Path, profile: str, people: int) -> Path:
    """Copy tables to ``figures/<profile>/``, which is returned, and draw what is drawn of tables.

    Args:
        made: folder of the tables.
        profile: of the run they are of.
        people: whose names a guess is among.
    """
    folder = REPO / "figures" / profile
    folder.mkdir(parents=True, exist_ok=True)
    for table in sorted(made.glob("*.*")):
        shutil.copy(table, folder / table.name)
    main = folder / "main.json"
    if main.exists():
        measure.write_table(readme_rows(json.loads(main.read_text())), folder, "readme")
    plots.theme()
    if (folder / "table1.json").exists():
        drawn = tradeoff.figure1(json.loads((folder / "table1.json").read_text()))
        (folder / "figure1.svg").write_text(plots.svg(drawn, tradeoff.FIGURE1))
    if (folder / "live.json").exists():
        drawn = tradeoff.figure(tradeoff.rows_of(folder), 1 / people)
        (folder / "curve.svg").write_text(plots.svg(drawn, tradeoff.ALT))
    return folder


def draw_maps() -> None:
    """The map of the method for the README, and for each notebook with its boxes in yellow."""
    folder = REPO / "figures" / "map"
    folder.mkdir(parents=True, exist_ok=True)
    plots.theme()
    for name, today in {"method": (), **diagram.TODAY}.items():
        (folder / f"{name}.svg").write_text(plots.svg(diagram.method(today), MAP))


def index() -> None:
    """The list of notebooks in their README, from their first cells, with a picture of each."""
    folder = REPO / "figures" / "thumbs"
    folder.mkdir(parents=True, exist_ok=True)
    for path in execute.notebooks("all"):
        picture = execute.thumbnail(path)
        if picture is not None:
            (folder / f"{path.name[:2]}.png").write_bytes(plots.png(picture))
    page = execute.NOTEBOOKS / "README.md"
    page.write_text(LIST.sub(lambda _: listed(), page.read_text()))


def listed() -> str:
    """The list of notebooks: a picture, the question, what is read and written, how long."""
    lines = ["| | asks | reads | writes | takes about |", "|---|---|---|---|---|"]
    for path in execute.notebooks("all"):
        question, row = execute.about(path)
        seen = f"![{question}](../figures/thumbs/{path.name[:2]}.png)"
        lines.append(f"| {seen} | [{path.name[:2]} {question}]({path.name}) {row}")
    return "\n".join(["<!-- notebooks -->", "", *lines, "", "<!-- end -->"])


def readme_rows(rows: list[dict]) -> list[dict]:
    """The main table's rows under the README's headers; what ran stands in a line below the table.

    Args:
        rows: of ``main.json``.
    """
    return [{plain: row[key] for key, plain in README_COLUMNS.items()} for row in rows]


def finished(folder: Path) -> dict[str, dict]:
    """Stage → what its manifest says of its making, for all that is finished in a run's folder."""
    made = {}
    for path in sorted(folder.rglob("manifest.json")):
        said = json.loads(path.read_text())
        if "stage" not in said or folder / ASIDE in path.parents:  # a store's, or no longer used
            continue
        summary, kept = (
            said["summary"],
            ("seconds", "peak_gib", "seed", "device", "versions", "key"),
        )
        made[said["stage"]] = (
            {key: summary[key] for key in ("steps", "best_step") if key in summary}
            | {"training_seconds": summary.get("seconds", 0)}
            | {key: said[key] for key in kept if key in said}
        )
    return made


def over_seeds(profile: str, settings: dict, runs_dir: Path, seeds: Sequence[str]) -> list[dict]:
    """The main table over finished runs with several seeds, written beside them; see
    `measure.over_seeds`.

    Raises:
        PpferError: naming the run that is not there yet.
    """
    tables = []
    for folder, config in _seeded(profile, settings, runs_dir, seeds):
        path = folder / "tables" / "main.json"
        if not path.exists():
            raise PpferError(
                f"there is no {path}; run: ppfer run --profile {profile} --seed {config.seed}"
            )
        tables.append(json.loads(path.read_text()))
    name = "seeds-" + run_name(load_config(profile, settings))
    return measure.write_table(measure.over_seeds(tables), runs_dir / "tables", name)


def side_by_side(results: Sequence[tuple[str, dict, list[dict]]]) -> list[dict]:
    """Tables of several runs as one; runs that differ only in their seed have rows of their own and
    one of all, mean and spread.

    Args:
        results: of each run its name, what tells it from the others, and its rows.

    Returns:
        Rows "run", what tells runs apart, "approach" and what was measured.
    """
    alike: dict[str, list] = {}
    for run, said, rows in results:
        same = {key: value for key, value in said.items() if key != "seed"}
        rows = [{k: v for k, v in row.items() if k != "what_ran"} for row in rows]
        alike.setdefault(json.dumps(same, default=str), []).append((run, said, rows))
    found = []
    for group in alike.values():
        found += [{"run": run, **said, **row} for run, said, rows in group for row in rows]
        seeds = [said.get("seed") for _, said, _ in group]
        if len(set(seeds)) < 2:
            continue
        with contextlib.suppress(PpferError):  # they measured other clips: no mean of those
            of = {**group[0][1], "seed": ", ".join(map(str, seeds))}
            merged = measure.over_seeds([rows for *_, rows in group])
            found += [{"run": f"{len(group)} seeds", **of, **row} for row in merged if len(row) > 1]
    return found


def told_apart(folders: Sequence[Path]) -> list[tuple[str, dict, list[dict]]]:
    """Finished runs for `side_by_side`: their main tables, and the settings in which they differ.

    Raises:
        PpferError: naming the run that is not there or not finished.
    """
    said = []
    for folder in folders:
        if not (folder / "run.json").exists():
            known = [path.parent.name for path in folder.parent.glob("*/run.json")]
            raise PpferError(f"there is no run {folder}{near(folder.name, known)}; see: ppfer runs")
        if not (folder / "tables" / "main.json").exists():
            raise PpferError(f"{folder} has no tables/main.json yet: finish it with ppfer run")
        said.append(json.loads((folder / "run.json").read_text()))
    keys = dict.fromkeys(key for run in said for key in run["differs"])
    own = [dotted(to_dict(load_config(run["profile"]))) | run["differs"] for run in said]
    own = [{"profile": run["profile"], **{k: o[k] for k in keys}} for run, o in zip(said, own)]
    telling = [k for k in ("profile", *keys) if len({str(o[k]) for o in own}) > 1]
    tables = [json.loads((folder / "tables" / "main.json").read_text()) for folder in folders]
    apart = [{k: o[k] for k in telling} for o in own]
    return [(folder.name, *rest) for folder, *rest in zip(folders, apart, tables)]


def write_side_by_side(results: Sequence[tuple], folder: Path, name: str) -> list[dict]:
    """The one table of `side_by_side` and its picture, ``<name>.json``, ``.md`` and ``.png``."""
    rows = side_by_side(results)
    matplotlib.use("Agg")
    plots.theme()
    figure = plots.compared(rows)
    with files.atomic(folder / f"{name}.png") as partial:
        figure.savefig(partial, bbox_inches="tight", dpi=110)
    plt.close(figure)
    return measure.write_table(rows, folder, name)


def publish_seeds(
    profile: str, settings: dict, runs_dir: Path, seeds: Sequence[str], rows: list[dict]
) -> None:
    """Keep the rows of `over_seeds` in figures/ with how each run was made."""
    runs = _seeded(profile, settings, runs_dir, seeds)
    made = {folder.name: finished(folder) for folder, _ in runs}
    folder = REPO / "figures" / profile
    measure.write_table(rows, folder, "seeds")
    files.write_json(
        folder / "seeds_manifest.json", {run: stages for run, stages in made.items() if stages}
    )
    fill_pages()


def _seeded(
    profile: str, settings: dict, runs_dir: Path, seeds: Sequence[str]
) -> list[tuple[Path, Config]]:
    configs = [load_config(profile, {**settings, "seed": seed}) for seed in seeds]
    return [(runs_dir / run_name(config), config) for config in configs]


def fill_pages() -> None:
    """Refresh the tables in the README and in the pages of figures/."""
    for page in map(REPO.joinpath, PAGES):
        if page.exists():
            page.write_text(fill(page.read_text()))


def fill(text: str) -> str:
    """Replace what stands between ``<!-- figures/x/y.md -->`` and ``<!-- end -->`` by that file,
    wherever the file exists.
    """

    def content(match: re.Match) -> str:
        path = REPO / match["file"]
        return (
            f"<!-- {match['file']} -->\n\n{path.read_text()}\n<!-- end -->"
            if path.exists()
            else match[0]
        )

    return re.sub(
        r"<!-- (?P<file>figures/\S+\.md) -->.*?<!-- end -->", content, text, flags=re.DOTALL
    )
