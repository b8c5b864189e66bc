"""The command line: ``ppfer run``, ``ppfer seeds``, ``ppfer data``, ``ppfer twin``, ``ppfer cost``, ``ppfer protect``."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from ppfer import __version__
from ppfer.config import PROFILES, REPO, PpferError, load_config

MAIN = ("00", "01", "02", "03", "04", "05", "06", "07", "12")  # the whole method, once
TABLES = ("08", "09", "10")  # comparisons, attacks, ablations
FOR_GPUS = ("twin", "paper")
NOTEBOOKS = REPO / "notebooks"


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, and turn the user's mistakes into one sentence and exit code 2."""
    args = _parser().parse_args(arguments)
    try:
        args.command(args)
    except PpferError as error:
        print(f"ppfer: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ppfer: stopped; the same command goes on from there", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno == 28:  # ENOSPC
            print("ppfer: the disk is full; free some space and run the same command again: finished stages are kept", file=sys.stderr)
            return 2
        raise
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ppfer", description="Facial expression recognition with identity removed from the video.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command")

    run = commands.add_parser("run", help="run the notebooks, headless and in order; finished stages are reused")
    _common(run)
    run.add_argument("--notebooks", default="main", help="main (00–07, 12) | tables (08–10) | all | numbers, e.g. 03,04 (default: main)")
    run.add_argument("--no-notebooks", action="store_true", help="make the stages and tables (main, tables or all) without Jupyter")
    run.add_argument("--in-place", action="store_true", help="keep outputs in notebooks/, tables and pictures in figures/ and README (synthetic data only)")
    run.set_defaults(command=_run)

    seeds = commands.add_parser("seeds", help="the results of runs with several seeds as one table: mean, spread and every count")
    _common(seeds)
    seeds.add_argument("--seeds", default="0,1,2", help="seeds of finished runs (default: 0,1,2)")
    seeds.add_argument("--in-place", action="store_true", help="keep the table in figures/ and README (synthetic data only)")
    seeds.set_defaults(command=_seeds)

    data = commands.add_parser("data", help="say what is in a folder of clips: usable, rejected and why")
    data.add_argument("folder", type=Path)
    data.set_defaults(command=_data)

    twin = commands.add_parser("twin", help="make more synthetic clips with CREMA-D's shape")
    twin.add_argument("--actors", type=int, default=12)
    twin.add_argument("--size", type=int, default=96, help="pixels, square")
    twin.add_argument("--frames", type=int, default=16)
    twin.add_argument("--wild", type=int, default=1400, help="in-the-wild clips of other actors")
    twin.add_argument("--seed", type=int, default=0)
    twin.add_argument("--device", default=None, help="cpu | cuda (default: cuda if there)")
    twin.add_argument("--out", type=Path, required=True)
    twin.set_defaults(command=_twin)

    cost = commands.add_parser("cost", help="memory and time of a profile's stages, before anyone starts them")
    _common(cost)
    cost.set_defaults(command=_cost)

    protect = commands.add_parser("protect", help="protect a video or a folder of videos with a finished run")
    _common(protect)
    protect.add_argument("videos", type=Path, help="a video file or a folder of them")
    protect.add_argument("--out", type=Path, required=True, help="folder for the protected mp4 files")
    protect.set_defaults(command=_protect)
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", default="demo", help=" | ".join(PROFILES))
    parser.add_argument("--data", type=Path, help="your clips: a CREMA-D tree, a DFEW tree or a folder with metadata.csv")
    parser.add_argument("--wild", type=Path, help="in-the-wild clips for the expression controller")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting, e.g. privacy.steps=50")


def settings_of(args: argparse.Namespace) -> dict[str, object]:
    """Overrides from the command line; paths become absolute, since notebooks run in their own folder."""
    settings: dict[str, object] = {}
    for pair in args.set:
        key, equals, value = pair.partition("=")
        if not equals:
            raise PpferError(f"--set takes KEY=VALUE, got '{pair}'")
        settings[key] = value
    for name in ("data", "wild"):
        folder = getattr(args, name)
        if folder is not None:
            if not folder.exists():
                raise PpferError(f"there is no data at {folder}")
            settings[name] = str(folder.resolve())
    load_config(args.profile, {"seed": args.seed, **settings})  # a mistake is said now, not in a kernel
    return settings


def _context(args: argparse.Namespace):
    from ppfer import tables  # noqa: F401  (registers the stages)
    from ppfer.run import Run

    return Run(load_config(args.profile, {"seed": args.seed, **settings_of(args)}), args.runs_dir)


# -- run -------------------------------------------------------------------------------------------------------------


def _run(args: argparse.Namespace) -> None:
    from ppfer.run import is_main

    settings = settings_of(args)
    if args.in_place and "data" in settings:
        raise PpferError("--in-place keeps pictures of faces in the repository; it is for the synthetic clips only")
    began = time.monotonic()
    context = _context(args)
    if context.device.type == "cpu" and args.profile in FOR_GPUS and is_main():
        print(f"No GPU was found. Profile {args.profile} is made for one: on a CPU it takes days, and what is finished is kept; "
              "profile demo is made for a CPU.", flush=True)
    if not context.config.generate:  # said before anything trains: how many clips there are, and which were rejected
        store = context.make("clips")
        if is_main():
            print(store.summary(), flush=True)
    if args.no_notebooks:
        from ppfer import ablation, tables

        parts = [tables.run_all] if args.notebooks != "tables" else []
        parts += [ablation.compare] if args.notebooks in ("tables", "all") else []
        for part in parts:
            part(context)
            if args.in_place and is_main():  # at once: the comparisons take longer, and may be stopped
                publish(context)
    else:
        chosen = notebooks(args.notebooks)
        for number, path in enumerate(chosen, 1):
            print(f"[{number}/{len(chosen)}] {path.name}", flush=True)
            execute(path, context.dir / "notebooks" / path.name, profile=args.profile, seed=args.seed,
                    runs_dir=args.runs_dir.resolve(), settings=settings)
            if args.in_place:
                keep(context.dir / "notebooks" / path.name, path)
        if args.in_place:
            publish(context)
    if is_main():
        _report(context, time.monotonic() - began, executed=not args.no_notebooks)


def _report(context, seconds: float, *, executed: bool) -> None:
    """The results table and where to look next."""
    from ppfer import evaluate

    for name in ("main", "table2"):
        path = context.dir / "tables" / f"{name}.json"
        if path.exists():
            print("\n" + _plain(json.loads(path.read_text()), evaluate.cell))
    print(f"\nDone in {seconds / 60:.1f} min. Results: {context.dir}/tables" + (f", notebooks with pictures: {context.dir}/notebooks" if executed else ""))
    print("Next: `make lab` to step through them, `ppfer protect VIDEO --out DIR` for your own video, --data DIR for your own clips.")


def _plain(rows: list[dict], cell) -> str:
    """Rows as aligned columns for a terminal; the long "what_ran" column is left to the files."""
    columns = [c for c in dict.fromkeys(k for row in rows for k in row) if c != "what_ran"]
    table = [columns] + [[cell(row.get(c, "")).split(" (")[0] if c != "approach" else row[c] for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    return "\n".join("  ".join(v.ljust(w) for v, w in zip(line, widths, strict=True)) for line in table)


def notebooks(which: str) -> list[Path]:
    """Notebook files for "main", "tables", "all" or a comma-separated list of numbers, in order.

    Raises:
        PpferError: if a number has no notebook.
    """
    numbers = {"main": MAIN, "tables": TABLES, "all": tuple(sorted(MAIN + TABLES))}.get(which) or tuple(which.split(","))
    found = {path.name[:2]: path for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}
    missing = [n for n in numbers if n not in found]
    if missing:
        raise PpferError(f"there is no notebook {', '.join(missing)} in {NOTEBOOKS}; there are {', '.join(found)}")
    return [found[n] for n in numbers]


def execute(path: Path, out: Path, **parameters: object) -> None:
    """Run one notebook through papermill, relaying progress, with every parameter checked.

    Args:
        path: the notebook.
        out: executed copy.
        parameters: values for its ``parameters`` cell; those equal to the cell's defaults are left out.

    Raises:
        PpferError: for a parameter the notebook does not have, or when a cell fails (its message).
    """
    import logging

    import papermill

    known = papermill.inspect_notebook(str(path))
    unknown = [name for name in parameters if name not in known]
    if unknown:
        raise PpferError(f"{path.name} has no parameter {', '.join(unknown)}; it has {', '.join(known)}")
    given = {k: str(v) if isinstance(v, Path) else v for k, v in parameters.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("papermill").setLevel(logging.ERROR)

    with _relay() as progress, _interrupts():
        before = dict(os.environ)  # the kernel's environment: figures inline whatever this process draws with
        os.environ.update(PPFER_PROGRESS=str(progress), PPFER_HEADLESS="1", MPLBACKEND="module://matplotlib_inline.backend_inline")
        try:
            papermill.execute_notebook(str(path), str(out), given, cwd=str(path.parent), kernel_name="python3",
                                       progress_bar=False, log_output=False, extra_arguments=["--log-level=40"])  # errors only
        except papermill.PapermillExecutionError as error:
            if error.ename == "KeyboardInterrupt":
                raise KeyboardInterrupt from None
            if error.ename in ("PpferError", "MissingInput"):
                raise PpferError(error.evalue) from None
            raise PpferError(f"{path.name}, cell {error.exec_count}: {error.ename}: {error.evalue}; the executed copy is {out}") from error
        finally:
            os.environ.clear()
            os.environ.update(before)


class _relay:
    """A file that kernels write progress lines to, printed here as they come."""

    def __enter__(self) -> Path:
        handle, name = tempfile.mkstemp(suffix=".ppfer-progress")
        os.close(handle)
        self.path, self.stop = Path(name), threading.Event()
        self.thread = threading.Thread(target=self._follow, daemon=True)
        self.thread.start()
        return self.path

    def _follow(self) -> None:
        with self.path.open() as stream:
            while True:
                ending = self.stop.is_set()
                for line in stream.readlines():
                    print("      " + line.rstrip(), flush=True)
                if ending:
                    return
                self.stop.wait(0.3)

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        self.thread.join()
        self.path.unlink(missing_ok=True)


class _interrupts:
    """While a kernel works, pass Ctrl-C on to it: the training loop there writes a checkpoint before it stops."""

    def __enter__(self) -> None:
        self.main = threading.current_thread() is threading.main_thread()
        self.old = [(n, signal.signal(n, self._pass)) for n in (signal.SIGINT, signal.SIGTERM)] if self.main else []

    def _pass(self, number: int, frame: object) -> None:
        import psutil

        for child in psutil.Process().children():
            child.send_signal(signal.SIGINT)

    def __exit__(self, *error: object) -> None:
        for number, handler in self.old:
            signal.signal(number, handler)


def keep(executed: Path, target: Path) -> None:
    """Take an executed copy's outputs into the committed notebook: no injected cell, widget state, timings or paths."""
    import nbformat

    book = nbformat.read(executed, as_version=4)
    book.cells = [c for c in book.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    for count, cell in enumerate((c for c in book.cells if c.cell_type == "code"), 1):
        cell.execution_count = count
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
    for cell in book.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k == "tags" and v})
    book.metadata = nbformat.from_dict({
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}, "language_info": {"name": "python"}})
    nbformat.write(book, target)


def publish(context) -> None:
    """Copy a synthetic run's tables to ``figures/<profile>/``, draw the README's pictures and refresh the README's tables."""
    import matplotlib

    from ppfer import plots
    from ppfer.run import write_json

    matplotlib.use("Agg")
    folder = REPO / "figures" / context.config.profile
    folder.mkdir(parents=True, exist_ok=True)
    for table in sorted((context.dir / "tables").glob("*")):
        shutil.copy(table, folder / table.name)
    write_json(folder / "manifest.json", context.finished())
    plots.theme()
    for name, figure in plots.overview(context).items():
        figure.savefig(folder / f"{name}.png", bbox_inches="tight", dpi=110)
    readme = REPO / "README.md"
    readme.write_text(fill(readme.read_text()))


def _seeds(args: argparse.Namespace) -> None:
    from ppfer import evaluate
    from ppfer.run import run_name, write_json

    settings, tables, made = settings_of(args), [], {}
    if args.in_place and "data" in settings:
        raise PpferError("--in-place keeps results on the synthetic clips only")
    for seed in args.seeds.split(","):
        config = load_config(args.profile, {**settings, "seed": seed})
        path = args.runs_dir / run_name(config) / "tables" / "main.json"
        if not path.exists():
            raise PpferError(f"there is no {path}; run: ppfer run --profile {args.profile} --seed {seed}")
        tables.append(json.loads(path.read_text()))
        args.seed = config.seed
        made[run_name(config)] = _context(args).finished()
    rows = evaluate.over_seeds(tables)
    plain = evaluate.write_table(rows, args.runs_dir / "tables", "seeds-" + run_name(load_config(args.profile, settings)))
    print(_plain(plain, evaluate.cell))
    if args.in_place:
        folder = REPO / "figures" / args.profile
        evaluate.write_table(rows, folder, "seeds")
        write_json(folder / "seeds_manifest.json", {run: stages for run, stages in made.items() if stages})
        readme = REPO / "README.md"
        readme.write_text(fill(readme.read_text()))


def fill(text: str) -> str:
    """Replace what stands between ``<!-- figures/x/y.md -->`` and ``<!-- end -->`` by that file, wherever the file exists."""

    def content(match: re.Match) -> str:
        path = REPO / match["file"]
        return f"<!-- {match['file']} -->\n\n{path.read_text()}\n<!-- end -->" if path.exists() else match[0]

    return re.sub(r"<!-- (?P<file>figures/\S+\.md) -->.*?<!-- end -->", content, text, flags=re.DOTALL)


# -- other commands --------------------------------------------------------------------------------------------------


def _data(args: argparse.Namespace) -> None:
    from ppfer import data

    index = data.index(args.folder)
    print(index.summary())
    for row in index.rejected.itertuples():
        print(f"rejected {row.path}: {row.reason}")


def _twin(args: argparse.Namespace) -> None:
    from ppfer import twin

    twin.generate(args.out, actors=args.actors, size=args.size, frames=args.frames, seed=args.seed, wild=args.wild, device=args.device)


def _cost(args: argparse.Namespace) -> None:
    from ppfer import cost

    print(cost.report(load_config(args.profile, {"seed": args.seed, **settings_of(args)})))


def _protect(args: argparse.Namespace) -> None:
    from ppfer.protect import deployed, protect_videos
    from ppfer.tables import protector_named

    context = _context(args)
    config, batch = context.config, 4
    protector = deployed(protector_named("ppfer").build(context), batch, precision=config.precision, compile=config.compile)
    protect_videos(protector, args.videos, args.out, size=config.size, device=context.device, batch=batch, precision=config.precision)
