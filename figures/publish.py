"""What is kept of runs for the repository: outputs of notebooks, tables, pictures, filled pages.

    python figures/publish.py runs/demo                    all that the run has made
    python figures/publish.py runs/demo runs/demo-seed1    and runs of other seeds as one table
    python figures/publish.py                              maps, drawings and pages alone

Runs on synthetic clips only: pictures of people stay out of the repository.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

try:
    from figures import headline, inside, method_map, thumbnails
except ModuleNotFoundError:  # run as a script, which has this folder on its path
    import headline
    import inside
    import method_map
    import thumbnails

from ppfer import measure
from ppfer.base.errors import PpferError
from ppfer.base.files import write_json
from ppfer.cli import audit, notebooks
from ppfer.cli.compare import COLUMNS, over_seeds, span
from ppfer.config import REPO
from ppfer.method.networks import band_split
from ppfer.run.names import config_of, made_in
from ppfer.run.run import Run
from ppfer.show import plots, tradeoff
from ppfer.study import catalogue

FIGURES = REPO / "figures"
PAGES = (  # hold tables and numbers from files
    *("README.md", "figures/README.md", "figures/columns.md", "figures/dials.md"),
    *("figures/history.md", "figures/bench/README.md", "figures/demo/README.md"),
    *("figures/twin/README.md", "figures/real/README.md", "data/README.md"),
    *("data/codebook.md", "data/regressor.md"),
)
PEOPLE = {"demo": 12, "twin": 91}  # whose names a guess is among
LIST = re.compile(r"<!-- notebooks -->.*?<!-- end -->", re.DOTALL)
TABLE = re.compile(r"<!-- (?P<file>figures/\S+\.md) -->.*?<!-- end -->", re.DOTALL)
CITED = re.compile(r"<!--= (?P<what>[^>]+) -->.*?<!--/-->", re.DOTALL)
MAP = (
    "Map of the method: original (V) is split into bands, one enhancer each (F_hpr, F_lpr) under "
    "frozen identity controllers, merged into protected (G); the compensator (F_fc) makes "
    "compensated (C), which the recognizer (F_u) and the frozen leakage validator (V_pl) read"
)


def publish(folder: Path) -> None:
    """Keep what a run has made: outputs of its notebooks, tables and pictures; what is not finished
    yet is left as it was. A `PpferError` if it is a run of people.
    """
    run = catalogue.open_run(config_of(folder), folder.parent)
    if audit.people_in(folder):
        raise PpferError(f"{folder} is a run of people, and the repository shows synthetic faces")
    for path in notebooks.chosen("all"):
        executed = folder / "notebooks" / path.name
        if executed.exists() and not keep_outputs(executed, path):
            print(f"{path.name} stays as it is: {executed} was executed from another text")
    kept = keep_tables(folder / "tables", run.config.profile, len(run.classes("actor")))
    inside.keep_all(run, kept)
    write_json(kept / "manifest.json", made_in(folder))
    (kept / "colour.md").write_text(of_colour(run))
    draw_overview(run, kept)
    for number, picture in thumbnails.drawn(run).items():
        (FIGURES / "thumbs" / f"{number}.png").write_bytes(plots.png(picture))


# --- notebooks ----------------------------------------------------------------


def keep_outputs(executed: Path, target: Path) -> bool:
    """Take an executed copy's outputs into the committed notebook: no injected cell, widget state,
    timings or paths. False, and nothing is taken, if the cells are not those of the notebook.
    """
    book = nbformat.read(executed, as_version=4)
    book.cells = [c for c in book.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    ours = nbformat.read(target, as_version=4).cells
    if [cell.source for cell in book.cells] != [cell.source for cell in ours]:
        return False

    for count, cell in enumerate((c for c in book.cells if c.cell_type == "code"), 1):
        cell.execution_count = count
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
    for cell in book.cells:
        tags = {k: v for k, v in cell.metadata.items() if k == "tags" and v}
        cell.metadata = nbformat.from_dict(tags)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    book.metadata = nbformat.from_dict(about)
    nbformat.write(book, target)
    return True


def list_notebooks() -> None:
    """The list of notebooks in their README, from their first cells."""
    page = notebooks.NOTEBOOKS / "README.md"
    page.write_text(LIST.sub(lambda _: notebook_list(), page.read_text()))


def notebook_list() -> str:
    """The list of notebooks: a picture, the question, what is read and written, how long."""
    lines = ["| | asks | reads | writes | takes about |", "|---|---|---|---|---|"]
    for path in notebooks.chosen("all"):
        title = nbformat.read(path, as_version=4).cells[0].source
        question = title.splitlines()[0].partition(" · ")[2]
        row = title.partition("|---|---|---|\n")[2].splitlines()[0]
        seen = f"![{question}](../figures/thumbs/{path.name[:2]}.png)"
        lines.append(f"| {seen} | [{path.name[:2]} {question}]({path.name}) {row}")
    return "\n".join(["<!-- notebooks -->", "", *lines, "", "<!-- end -->"])


# --- tables and pictures ------------------------------------------------------


def keep_tables(made: Path, profile: str, people: int) -> Path:
    """Copy tables to ``figures/<profile>/``, which is returned, and draw what is drawn of them."""
    folder = FIGURES / profile
    folder.mkdir(parents=True, exist_ok=True)
    for table in sorted(made.glob("*.*")):
        shutil.copy(table, folder / table.name)
    draw_tables(folder, people)
    return folder


def draw_tables(folder: Path, people: int) -> None:
    """What is drawn and said of the tables of a folder; a guess is among so many people's names."""
    main = folder / "main.json"
    if main.exists():
        rows = json.loads(main.read_text())
        measure.write_table(readme_rows(rows), folder, "readme")
        (folder / "words.md").write_text(in_words(rows))
    plots.theme()
    if (folder / "table1.json").exists():
        drawn = tradeoff.figure1(json.loads((folder / "table1.json").read_text()))
        (folder / "figure1.svg").write_text(plots.svg(drawn, tradeoff.FIGURE1))
    if (folder / "live.json").exists():
        drawn = tradeoff.figure(tradeoff.rows_of(folder), 1 / people)
        (folder / "curve.svg").write_text(plots.svg(drawn, tradeoff.ALT))
    plt.close("all")


def readme_rows(rows: list[dict]) -> list[dict]:
    """The main table's rows under the README's headers; what ran stands below the table."""
    return [{plain: row.get(key, "") for key, plain in COLUMNS.items()} for row in rows]


def in_words(rows: list[dict]) -> str:
    """What the main table says, in sentences."""
    named = {row["approach"]: measure.as_rate(row["plr"]).short for row in rows}
    again = measure.as_rate(rows[-1]["plr_retrained"]).short
    before, *others, after = named
    said = [f"As trained, the validator names {named[before]} of the originals"]
    said += [f"{named[name]} of {in_text(name)}" for name in (*others, after)]
    lines = [", ".join(said) + f"; retrained, it names {again} of {in_text(after)}."]
    first, last = rows[0]["acc_retrained"], rows[-1]["acc_retrained"]
    by, low, high = measure.difference(measure.as_rate(last), measure.as_rate(first))
    how = "more" if low > 0 else "less" if high < 0 else "neither more nor less"
    lines.append(
        f"F_u, retrained, reads {how} of {in_text(after)} than of originals ({100 * by:+.1f} "
        f"points; 95 % interval {100 * low:+.1f} to {100 * high:+.1f})."
    )
    return " ".join(lines) + "\n"


def in_text(approach: str) -> str:
    """An approach's name within a sentence."""
    return approach if approach[:2].isupper() else approach[0].lower() + approach[1:]


def of_colour(run: Run) -> str:
    """How many test clips the mean colour names, in a sentence: the nearest of the actors' means
    over training clips.
    """
    means = torch.stack([clip.float().mean((0, 2, 3)) for clip in run.tensor("clips")]).cpu()
    actors, train, test = run.labels("actor"), run.parts["train"], run.parts["test"]
    everybody = np.unique(actors)
    centres = torch.stack([means[train][actors[train] == who].mean(0) for who in everybody])
    nearest = everybody[torch.cdist(means[test], centres).argmin(1).numpy()]
    named = measure.rate(nearest == actors[test])
    return f"The mean colour of a clip, three numbers, already names {named} of test clips.\n"


def keep_seeds(folders: Sequence[Path]) -> None:
    """The main tables of runs that differ in their seed as one, ``seeds``: mean, spread, counts."""
    tables = [json.loads((folder / "tables" / "main.json").read_text()) for folder in folders]
    kept = FIGURES / config_of(folders[0]).profile
    measure.write_table(over_seeds(tables), kept, "seeds")
    write_json(kept / "seeds_manifest.json", {run.name: made_in(run) for run in folders})


def draw_overview(run: Run, folder: Path) -> None:
    """The README's pictures of a run."""
    for name, (figure, alt) in overview_pictures(run).items():
        if isinstance(figure, Figure):
            (folder / f"{name}.svg").write_text(plots.svg(figure, alt))
        else:
            (folder / f"{name}.png").write_bytes(plots.png(figure))


def overview_pictures(run: Run, *, count: int = 8) -> dict[str, tuple[Figure | Image.Image, str]]:
    """The README's pictures and what they show, from a finished run on synthetic clips: "bands",
    "protected" and two of training curves.

    "bands": one frame of two actors, split. "protected": V, both enhanced bands merged (G) and
    compensated (C) for the apex-side middle frame of `count` test clips, the first of each (actor,
    expression) pair in turn. "curves_protection": Algorithms 1 and 2 under the frozen controllers.
    "curves_readers": F_u and V_pl, each learning to read V, G and C.
    """
    split = band_split(run.config)
    table, test = run.table, run.parts["test"]

    # "protected": a few test clips as original, protected and compensated
    turn = table.loc[test].groupby("actor").cumcount()
    chosen = turn.sort_values(kind="stable").index[:count].to_numpy()
    stores = {
        "original (V)": run.tensor("clips"),
        "protected (G)": run.tensor("protected/enhanced"),
        "compensated (C)": run.tensor("protected/ppfer"),
    }
    middle = run.config.frames // 2
    rows = [[pixels[i, middle] for i in chosen] for pixels in stores.values()]
    labels = [f"{table.actor[i]} {table.emotion[i]}" for i in chosen]
    alt = "original frames, protected frames and compensated frames, in rows"
    pictures = {"protected": (plots.image_grid(rows, list(stores), labels, cell=1.1), alt)}

    # "bands": only where frames are split one by one
    if "t" not in run.config.bands.axes:
        faces = torch.stack([stores["original (V)"][i, middle] for i in chosen[:2]])
        faces = faces.float().cpu() / 255
        parts = split.coefficients(*split.split(faces), like=faces)
        two = [{n: x[i] for n, x in parts.items()} for i in range(2)]
        drawn = plots.bands(two, labels[:2])
        pictures["bands"] = drawn, "one frame of two actors, split into bands"

    # curves: what protects, then who reads
    guessing = dict.fromkeys(("val_plr", "val_all_frames"), run.chance("actor"))
    stages = {"Algorithm 1": "privacy", "Algorithm 2": "compensation"}
    keys = ("val_plr", "val_l1", "val_accuracy")
    alt = "identity named, distortion and expressions read while both algorithms train"
    drawn = plots.curves(run, stages, keys, decided=keys[:1], chance=guessing)
    pictures["curves_protection"] = drawn, alt
    readers = {
        f"{kind} on {short}": f"{stage}/{name}"
        for stage, kind in (("recognizer", "F_u"), ("attack", "V_pl"))
        for name, short in (("none", "V"), ("enhanced", "G"), ("ppfer", "C"))
        if run.has(f"{stage}/{name}")
    }
    keys = ("loss", "val_accuracy", "val_all_frames")
    alt = "recognizer and validator learning to read V, G and C: loss and what they read"
    drawn = plots.curves(run, readers, keys, decided=keys[1:], chance=guessing)
    pictures["curves_readers"] = drawn, alt
    return pictures


def draw_maps() -> None:
    """The map of the method for the README, and for each notebook with its boxes in yellow."""
    folder = FIGURES / "map"
    folder.mkdir(parents=True, exist_ok=True)
    plots.theme()
    for name, today in {"method": (), **method_map.TODAY}.items():
        (folder / f"{name}.svg").write_text(plots.svg(method_map.method(today), MAP))


# --- pages --------------------------------------------------------------------


def refresh() -> None:
    """All that is drawn and said of the tables that are kept."""
    inside.publish(FIGURES)  # the worst attacks of tables, before any is drawn
    for profile, people in PEOPLE.items():
        draw_tables(FIGURES / profile, people)
    headline.publish(FIGURES)
    fill_pages()


def fill_pages() -> None:
    """Refresh the tables in the README and in the pages of figures/."""
    for page in map(REPO.joinpath, PAGES):
        if page.exists():
            page.write_text(fill(page.read_text()))


def fill(text: str) -> str:
    """Replace what stands between ``<!-- figures/x/y.md -->`` and ``<!-- end -->`` by that file,
    wherever the file exists, and numbers between ``<!--= ... -->`` and ``<!--/-->`` by `cited`.
    """

    def content(match: re.Match) -> str:
        file, path = match["file"], REPO / match["file"]
        return f"<!-- {file} -->\n\n{path.read_text()}\n<!-- end -->" if path.exists() else match[0]

    text = TABLE.sub(content, text)
    return CITED.sub(lambda match: f"<!--= {match['what']} -->{cited(match['what'])}<!--/-->", text)


def cited(what: str) -> str:
    """Numbers of a table within a sentence: "645, 401 and 437".

    Args:
        what: ``twin/seeds | Live controllers | acc``: a table in ``figures/``, what its rows have
            in some column (none: all rows), and the column. A share is a count; with ``| %`` it is
            in percent, with ``| to %`` so, from the least to the greatest.

    Raises:
        PpferError: if the table has no such cell.
    """
    file, *about, column = what.removesuffix(" | %").removesuffix(" | to %").split(" | ")
    rows = json.loads((FIGURES / f"{file}.json").read_text())
    rows = [row for row in rows if {*about} <= {*map(str, row.values())} and column in row]
    if not rows:
        raise PpferError(f"there is no number to cite for {what!r}")
    cells = [measure.as_rate(row[column]) or row[column] for row in rows]
    cells = [rate for cell in cells for rate in getattr(cell, "rates", [cell])]
    if not isinstance(cells[0], measure.Rate):
        formats = {str: "", int: ",", float: ".2f"}
        return listed([format(cell, formats[type(cell)]) for cell in cells])
    if what.endswith(" | to %"):
        return span(rate.value for rate in cells)
    if what.endswith(" | %"):
        return listed([f"{100 * rate.value:.1f}" for rate in cells]) + " %"
    return listed([f"{rate.k:,}" for rate in cells])


def listed(words: Sequence[str]) -> str:
    """Several in a sentence: "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = "folder of a run; of several, which differ in their seed, the first is shown"
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help=what)
    folders = parser.parse_args().runs
    matplotlib.use("Agg")
    try:
        if folders:
            publish(folders[0].resolve())
        if len(folders) > 1:
            keep_seeds(folders)
    except PpferError as error:
        print(f"publish: {error}", file=sys.stderr)
        return 2
    draw_maps()
    list_notebooks()
    refresh()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
