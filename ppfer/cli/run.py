"""``ppfer run``: the notebooks, or the stages and tables without Jupyter, and what came out."""

import argparse
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

from ppfer.base.errors import PpferError
from ppfer.base.files import read_json
from ppfer.base.processes import is_main
from ppfer.base.progress import relayed
from ppfer.cli import execute, notebooks, report
from ppfer.cli.compare import in_short, results_of, short, write_side_by_side
from ppfer.cli.overview import Overview, minutes, planned
from ppfer.cli.settings import config_of, settings_of
from ppfer.cli.terminal import table
from ppfer.method.networks import band_split
from ppfer.run.names import introduce
from ppfer.run.run import Run
from ppfer.show import tradeoff
from ppfer.study import catalogue, tables

FOR_GPUS = ("twin", "paper")
GROUPS = ("main", "tables", "all")  # of notebooks, and of what is made without them


def run(args: argparse.Namespace) -> None:
    """Run what is asked for and say what came out."""
    config, began = config_of(args), time.monotonic()
    books = notebooks.chosen(args.notebooks)
    if args.no_notebooks and args.notebooks not in GROUPS:
        raise PpferError(f"--no-notebooks makes {', '.join(GROUPS)}, not '{args.notebooks}'")
    band_split(config)  # knows which wavelets and modes there are
    run = catalogue.open_run(config, args.runs_dir)
    if run.device.type == "cpu" and config.profile in FOR_GPUS and is_main():
        print(
            f"No GPU was found. Profile {config.profile} is made for one: on a CPU it takes days, "
            "and what is finished is kept; profile demo is made for a CPU.",
            flush=True,
        )
    if not config.generate:  # before anything trains: how many clips, which were rejected
        store = run.make("clips")
        if is_main():
            print(store.summary(), flush=True)

    ended = "stopped"
    try:
        shown = Overview(run, planned(run, [path.name[:2] for path in books]), len(books))
        with relayed(shown):
            _make(run, args, books, shown)
        ended = "finished"
    finally:
        if is_main():
            seconds = time.monotonic() - began
            report.note_call(run, args.notebooks, seconds, ended)
    if is_main():
        _say_results(run, seconds)


def _make(run: Run, args: argparse.Namespace, books: Sequence[Path], shown: Overview) -> None:
    """The notebooks, or the stages and tables that they make."""
    if args.no_notebooks:
        if args.notebooks != "tables":
            tables.run_all(run)
        if args.notebooks != "main":
            catalogue.compare(run)
            if is_main():
                tradeoff.save_figure1(run.dir / "tables")
        return
    hide = None if args.allow_real_faces else execute.private_clip_names(run)
    parameters = {"profile": args.profile, "seed": args.seed, "settings": settings_of(args)}
    parameters["runs_dir"] = args.runs_dir.resolve()
    for number, path in enumerate(books, 1):
        shown.begin(number, path.name[:2])
        print(f"[{number}/{len(books)}] {path.name}", flush=True)
        execute.execute(path, run.dir / "notebooks" / path.name, hide, **parameters)


def _say_results(run: Run, seconds: float) -> None:
    """What came out, whether it should, the picture that shows most, and where to look next."""
    made = run.dir / "tables"
    if rows := read_json(made / "main.json", []):
        introduce(run.dir, run.config)  # where all its stages are another run's, nobody has
        results = results_of([run.dir])
        write_side_by_side(results, made, "results")
        guessing = results[0].guessing
        print("\n" + table(report.main_in_words(rows, guessing)))
        if classes := read_json(made / "table2.json", []):
            print(f"\nexpression read, by class; guessing: {100 * guessing['emotion']:.1f} %")
            print(table([{in_short(k): v for k, v in row.items()} for row in classes], short))
        print("\n" + textwrap.fill(report.judgement(run, rows), 100, break_on_hyphens=False))
    page = report.write_report(run)
    picture = run.dir / "pictures" / f"{report.TELLING}.png"
    picture = picture if picture.exists() else made / "results.png"
    print(f"\nReport: {page}")
    if picture.exists():
        print(f"Picture: {picture}")
    books = run.dir / "notebooks"
    print(f"Results: {made}{f', notebooks with pictures: {books}' if books.exists() else ''}")
    total = 60 * sum(call["minutes"] for call in report.calls(run.dir))
    print(f"Done in {minutes(seconds)}; with earlier calls {minutes(total)}.")
    print(
        "Next: `make lab` to step through them, `ppfer protect VIDEO --out DIR` for your own "
        "video, --data DIR for your own clips."
    )
