"""Cells of a grid, made by several workers at once; ``ppfer batch``.

A cell is a run, and joblib gives cells to workers. What cells share has one key: `Run` lets one
worker make it while the others wait, so that nothing here has to know who makes what.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import multiprocessing
import os
import platform
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import joblib
import psutil
import torch
from filelock import FileLock, Timeout
from joblib.externals.loky.process_executor import TerminatedWorkerError

from ppfer import measure
from ppfer.base.errors import PpferError, printable
from ppfer.base.files import atomic, digest, sweep, write_json
from ppfer.base.processes import interruptible
from ppfer.base.progress import EVERY, FILE, following, say
from ppfer.cli import compare, notebooks
from ppfer.cli.execute import execute, parameters_of, private_clip_names
from ppfer.cli.grid import Cell, cells_of, read_axes
from ppfer.cli.settings import settings_of
from ppfer.config import Config
from ppfer.measure import as_rate
from ppfer.method import PIPELINE
from ppfer.run.names import introduce
from ppfer.run.run import Run
from ppfer.study import catalogue, tables

# --- the command ----------------------------------------------------------------


def batch(args: argparse.Namespace) -> int:
    """Make all cells of a grid and show them side by side; 1 if one failed."""
    if args.notebooks and args.stages:
        raise PpferError("a batch runs --notebooks or makes --stages, not both")
    if args.workers < 1:
        raise PpferError(f"--workers takes a whole number from 1, got {args.workers}")
    title, args.name = args.name, ""  # a cell's run is called after its settings
    axes = read_axes(args.grid, args.grid_file)
    books = notebooks.chosen(args.notebooks) if args.notebooks else []
    stages = [name.strip() for name in args.stages.split(",") if name.strip()]
    settings = {"seed": args.seed, **settings_of(args)}
    cells = cells_of(axes, args.profile, settings, books, stages)
    described = [args.profile, settings, axes, args.notebooks, args.stages]
    title, runs_dir = title or f"batch-{digest(described)[:6]}", args.runs_dir.resolve()
    folder = runs_dir / "batches" / title

    todo, began = Batch(cells, runs_dir, folder, books), time.monotonic()
    print(f"{todo.summary()}; {folder}", flush=True)
    outcomes = run_batch(todo, args.workers, args.dask)
    results = todo.results()
    if any(result.rows for result in results):  # stages below the networks measure nothing
        print(compare.by_approach(compare.write_side_by_side(results, folder, "results")))
        print(compare.by_guessing(results))
        print(f"\nWith every interval: {folder}/results.md; picture: {folder}/results.png")
    by_class = [r._replace(rows=compare.table_of(runs_dir / r.run, "table2")) for r in results]
    if not stages and any(result.rows for result in by_class):
        measure.write_table(compare.side_by_side(by_class), folder, "table2")
        print(f"By class: {folder}/table2.md")
    failed = [f"failed: {cells[cell]}: {error}" for cell, error, _ in outcomes if error]
    print(*map(printable, failed), sep="\n", end="\n" * bool(failed))
    minutes = (time.monotonic() - began) / 60, sum(outcome.seconds for outcome in outcomes) / 60
    done = f"{len(cells) - len(failed)} of {len(cells)} cells"
    print(f"{done} in {minutes[0]:.1f} min, {minutes[1]:.1f} min of work")
    return 1 if failed else 0


# --- what there is to make ------------------------------------------------------


@functools.lru_cache(maxsize=1)
def lately_opened(config: Config, runs_dir: Path) -> Run:
    """A run; where the cell before was of the same, what that has in memory is used again."""
    return catalogue.open_run(config, runs_dir)


@dataclass
class Batch:
    """Cells, and what making one means."""

    cells: list[Cell]
    runs_dir: Path
    folder: Path  # where results are put together
    # to run in every cell. A cell that has stages makes those; one that has neither is the main
    # run's stages and tables
    books: Sequence[Path] = ()
    opener: Callable[..., Run] = lately_opened

    def __post_init__(self):
        """Every name is looked up and every key computed before anything starts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.command = os.getpid()
        self.progress = self.folder / f".{self.command:x}-0.progress"  # as `files.sweep` knows it
        self.stop = self.progress.with_suffix(".stop")  # a file that stops all workers
        # of each cell its run, its stages' keys, and the file that is there once it is finished
        self.runs, self.keys, self.marks = [], [], []
        pages = {book.name: digest(book.read_text("utf-8")) for book in self.books}
        for cell in self.cells:
            run = self.opener(cell.config, self.runs_dir)
            keys = [run.key(name) for name in self.stages(cell, run)]
            made_of = digest([sorted(keys), pages, cell.stages, cell.parameters])
            self.runs.append(run)
            self.keys.append(keys)
            self.marks.append(run.dir / "cells" / f"{made_of}.json")

    def __getstate__(self) -> dict:
        return self.__dict__ | {"runs": []}  # every worker opens its own

    def left(self) -> list[int]:
        """Numbers of the cells that are not finished."""
        return [number for number, mark in enumerate(self.marks) if not mark.exists()]

    def summary(self) -> str:
        """What there is to do."""
        every = [key for keys in self.keys for key in keys]
        stages = f"{len(every)} stages, {len(set(every))} of them different"
        return f"{len(self.cells)} cells of {stages}; {len(self.left())} cells left to make"

    def results(self) -> list[compare.Result]:
        """Of each finished cell its run, what tells it apart, and its rows."""
        return [
            compare.Result(run.dir.name, cell.values, self.rows(cell, run), compare.guessing(run))
            for cell, run, mark in zip(self.cells, self.runs, self.marks)
            if mark.exists()
        ]

    def stages(self, cell: Cell, run: Run) -> list[str]:
        """The stages a cell is made of, each after those it stands on."""
        if cell.stages:
            return list(dict.fromkeys(n for name in cell.stages for n in run.with_needs(name)))
        last = max((book.name[:2] for book in self.books), default="99")
        return [name for name in PIPELINE if run.stage(name).origin() <= last]

    def end(self, cell: Cell, run: Run) -> None:
        """What ends a cell whose stages are made: its notebooks (a `PpferError` names the copy of
        one that fails), or the main run's tables.
        """
        hide = private_clip_names(run) if self.books else None
        common = {"profile": cell.config.profile, "seed": cell.config.seed}
        common |= {"settings": cell.settings, "runs_dir": self.runs_dir}
        for book in self.books:
            out = run.dir / "notebooks" / book.name
            own = {k: v for k, v in cell.parameters.items() if k in parameters_of(book)}
            try:
                execute(book, out, hide, **common, **own)
            except PpferError as error:
                raise PpferError(f"{error} (as far as it came: {out})") from error
        if not self.books and not cell.stages:
            tables.run_all(run)

    def rows(self, cell: Cell, run: Run) -> list[dict]:
        """A cell's main table, or what its stages measured: val in numbers, test in shares."""
        if rows := [] if cell.stages else compare.main_rows(run.dir):
            return rows
        for name in cell.stages or self.stages(cell, run):
            summary = run.summary(name)
            row = {f"val {k.removeprefix('val_')}": v for k, v in summary.get("best", {}).items()}
            test = summary.get("test")  # of the split's it is a count
            shares = test.items() if isinstance(test, dict) else ()
            row |= {k: share for k, v in shares if (share := as_rate(v))}
            if name.startswith("recognizer/"):
                read = tables.measure_accuracy(run, name.split("/")[1])
                row |= {"acc": read["average"], "uar": read["uar"]}
            rows += [{"approach": name} | row] if row else []
        return rows


# --- all cells ------------------------------------------------------------------


def run_batch(batch: Batch, workers: int, dask: str = "") -> list[Outcome]:
    """Make all cells that are not finished; returns what became of each of them.

    Args:
        workers: processes on this machine; 1 works in this one.
        dask: "local" for a Dask cluster of so many processes here, or a scheduler's address, whose
            workers are all used and share this disk.

    Raises:
        KeyboardInterrupt: after everybody has stopped in good order.
        PpferError: if a worker was killed, or there is no such cluster.
    """
    sweep(batch.folder)
    # loky's: seconds, where the command was killed; no cell waits in it, since its thread stumbles
    # over that when it is told to stop at once; a terminal's Ctrl-C goes to who still imports, too
    left, how = batch.left(), {"idle_worker_timeout": 10, "pre_dispatch": workers}
    how |= {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}
    with contextlib.ExitStack() as stack:
        for file in (batch.stop, batch.progress):
            file.unlink(missing_ok=True)
            stack.callback(file.unlink, missing_ok=True)
        stack.enter_context(following(batch.progress, _Shown(batch)))
        if dask:
            workers = stack.enter_context(_dask(dask, workers))
            how = {"pre_dispatch": "all"}
        if dask or workers > 1:  # else Ctrl-C is the cell's
            stack.enter_context(interruptible(lambda: _ask_to_stop(batch)))
        pool = joblib.Parallel(workers, batch_size=1, **how)
        try:
            outcomes = pool(joblib.delayed(make_cell)(batch, number) for number in left)
        except TerminatedWorkerError as error:
            if batch.stop.exists():
                raise KeyboardInterrupt from None
            raise PpferError(
                "a worker was killed, often for lack of memory; what is finished is kept, and the "
                "same command with fewer --workers goes on"
            ) from error
        if batch.stop.exists():
            raise KeyboardInterrupt
    return outcomes


class _Shown:
    """Every few seconds a line: how far a batch is, and what a worker said last."""

    def __init__(self, batch: Batch):
        self.batch, self.total = batch, len(batch.left())
        self.began = self.shown = time.monotonic()
        self.last = "the first workers start"

    def __call__(self, lines: list[str]) -> None:
        self.last, now = (lines or [self.last])[-1].strip(), time.monotonic()
        if now - self.shown < EVERY:
            return
        self.shown, left = now, len(self.batch.left())
        done, seconds, guess = self.total - left, now - self.began, ""
        if done:  # before that nobody can tell: stages differ too much
            guess = f", about {seconds / done * left:.0f} s left"
        print(f"batch {done}/{self.total} cells, {seconds:.0f} s{guess} ({self.last})", flush=True)


def _ask_to_stop(batch: Batch) -> None:
    batch.stop.touch()
    print("stopping: every worker first keeps what it has; again to stop at once", flush=True)


@contextlib.contextmanager
def _dask(where: str, workers: int) -> Iterator[int]:
    """A Dask cluster behind joblib; yields how many workers it has."""
    try:
        from distributed import Client, LocalCluster  # an extra
    except ImportError as error:
        raise PpferError("--dask needs Dask: pip install -e '.[cluster]'") from error
    with contextlib.ExitStack() as stack:
        given, how = where, {"n_workers": workers, "threads_per_worker": 1}
        if where == "local":
            threads = os.environ.get("OMP_NUM_THREADS") or max(1, joblib.cpu_count() // workers)
            how |= {"env": {"OMP_NUM_THREADS": str(threads)}, "dashboard_address": None}
            given = stack.enter_context(LocalCluster(**how))
        try:
            client = stack.enter_context(Client(given, timeout=20))
        except (OSError, ValueError) as error:
            raise PpferError(f"there is no Dask scheduler at {where}: {error}") from error
        with joblib.parallel_config("dask"):
            yield len(client.scheduler_info(n_workers=-1)["workers"])


# --- one cell, in a worker ------------------------------------------------------


class Outcome(NamedTuple):
    """What became of a cell: the sentence it failed with, if it did, and the seconds it took."""

    cell: int
    error: str
    seconds: float


def make_cell(batch: Batch, number: int) -> Outcome:
    """Make a cell; a failure is the cell's alone, and Ctrl-C stops the whole batch."""
    began, error = time.monotonic(), ""
    try:
        if not batch.stop.exists():
            with _as_worker(batch):
                error = _made(batch, number)
    except KeyboardInterrupt:
        batch.stop.touch()
    return Outcome(number, error, time.monotonic() - began)


def _made(batch: Batch, number: int) -> str:
    """Make a cell's stages and what ends it; returns "", or what it failed with.

    What a failure says in full is kept in the run's folder, as ``failed.txt``.
    """
    cell = batch.cells[number]
    run, name = batch.opener(cell.config, batch.runs_dir), ""
    trace = run.dir / "failed.txt"
    try:
        for name in batch.stages(cell, run):
            run.make(name, load=False)
        name = "results"
        batch.end(cell, run)
    except Exception as error:
        kind = "" if isinstance(error, PpferError) else f"{type(error).__name__}: "
        sentence = f"{run.dir.name}, {name}: {kind}{error}"
        say(f"failed: {sentence}")
        with atomic(trace) as partial:
            partial.write_text(traceback.format_exc(), "utf-8")
        return sentence
    trace.unlink(missing_ok=True)
    introduce(run.dir, run.config)  # where all its stages are another run's, nobody has
    write_json(batch.marks[number], cell.values)
    return ""


@contextlib.contextmanager
def _as_worker(batch: Batch) -> Iterator[None]:
    """While a cell is made: progress goes where the command reads it. A process of its own has one
    GPU, and takes Ctrl-C only from the command, so that it comes once.
    """
    before = dict(os.environ)
    os.environ[FILE] = str(batch.progress)
    over, watch = threading.Event(), None
    try:
        if os.getpid() != batch.command:
            multiprocessing.set_start_method(None, force=True)  # for children that decode videos
            multiprocessing.current_process()._config["daemon"] = False  # Dask's may have none
            os.environ.update(_own_gpu(batch.runs_dir / ".making")[0])
            if threading.current_thread() is threading.main_thread():  # Dask works in others
                if hasattr(os, "setpgid"):
                    os.setpgid(0, 0)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                watch = threading.Thread(target=_stop_with, args=(batch, over), daemon=True)
                watch.start()
        yield
    finally:
        if watch:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            over.set()
            watch.join()
        os.environ.clear()
        os.environ.update(before)


def _stop_with(batch: Batch, over: threading.Event) -> None:
    """Ctrl-C for this process once the command was told to stop, or has ended."""
    while not over.wait(0.3):
        if batch.stop.exists() or not psutil.pid_exists(batch.command):
            main = threading.main_thread().ident
            if hasattr(signal, "pthread_kill"):
                signal.pthread_kill(main, signal.SIGINT)  # also where it waits
            else:
                signal.raise_signal(signal.SIGINT)
            return


@functools.cache
def _own_gpu(locks: Path) -> tuple[dict[str, str], FileLock | None]:
    """Of several GPUs one as a variable: the first that no other living process keeps, if any; the
    lock goes with the process, in whose place joblib may put another.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = given.split(",") if given else [str(i) for i in range(torch.cuda.device_count())]
    for turn in itertools.count() if len(gpus) > 1 else ():
        lock = FileLock(locks / f"{platform.node()}-gpu-{turn}.lock")
        with contextlib.suppress(Timeout):
            lock.acquire(blocking=False)
            return {"CUDA_VISIBLE_DEVICES": gpus[turn % len(gpus)]}, lock
    return {}, None
