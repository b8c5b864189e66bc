"""Results of synthetic runs for the repository: tables and pictures in figures/, several seeds side
by side, README blocks.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from ppfer import execute, measure, plots
from ppfer.config import REPO, Config, PpferError, load_config
from ppfer.device import write_json
from ppfer.folders import ASIDE, run_name
from ppfer.run import Run
from ppfer.study import diagram

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
    folder = REPO / "figures" / run.config.profile
    folder.mkdir(parents=True, exist_ok=True)
    for table in sorted((run.dir / "tables").glob("*")):
        shutil.copy(table, folder / table.name)
    main = folder / "main.json"
    if main.exists():
        measure.write_table(readme_rows(json.loads(main.read_text())), folder, "readme")
    write_json(folder / "manifest.json", finished(run.dir))
    plots.theme()
    for name, (figure, alt) in plots.overview(run).items():
        if isinstance(figure, Figure):
            (folder / f"{name}.svg").write_text(plots.svg(figure, alt))
        else:
            (folder / f"{name}.png").write_bytes(plots.png(figure))
    draw_maps()
    fill_pages()


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


def publish_seeds(
    profile: str, settings: dict, runs_dir: Path, seeds: Sequence[str], rows: list[dict]
) -> None:
    """Keep the rows of `over_seeds` in figures/ with how each run was made."""
    runs = _seeded(profile, settings, runs_dir, seeds)
    made = {folder.name: finished(folder) for folder, _ in runs}
    folder = REPO / "figures" / profile
    measure.write_table(rows, folder, "seeds")
    write_json(
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
