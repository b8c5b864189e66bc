"""Cells of a grid, over stages or notebooks, made by several workers at once.

A cell is a run. A stage that several cells stand on has one key and is one task. Every worker takes
what can be made now and nobody else is making, by a lock on the disk they share, wherever it is.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import psutil
import torch
from filelock import FileLock, Timeout
from joblib.externals.loky.process_executor import TerminatedWorkerError

from ppfer.base.errors import PpferError
from ppfer.base.files import atomic, digest, write_json
from ppfer.base.progress import Progress
from ppfer.cli import audit
from ppfer.cli.execute import execute, parameters_of
from ppfer.cli.grid import Cell
from ppfer.measure import as_rate
from ppfer.method import PIPELINE
from ppfer.run import Run
from ppfer.study import catalogue, tables

LAST = "results"  # the task that ends a cell: its notebooks, or its tables

# --- the tasks ----------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A stage to make in a cell's run, or what ends a cell; done once its key is."""

    key: str
    cell: int
    name: str
    needs: frozenset[str]


@dataclass
class Batch:
    """Cells, and the tasks that make them.

    Attributes:
        folder: what the workers tell each other: claims, done, failed, and a log.
        books, stages: what a cell is made for; with neither it is the main run's stages and tables.
        threads: of each worker; 0 leaves them as they are.
    """

    cells: list[Cell]
    runs_dir: Path
    folder: Path
    books: Sequence[Path] = ()
    stages: Sequence[str] = ()
    opener: Callable[..., Run] = catalogue.open_run
    threads: int = 0

    def __post_init__(self):
        """Find the tasks. Every name is looked up and every key computed before anything starts."""
        self.parent, self.asked = os.getpid(), 0
        self.tasks: dict[str, Task] = {}
        self.ends: list[str] = []  # of each cell, the key of what ends it
        for kind in ("done", "failed", "claims"):
            (self.folder / kind).mkdir(parents=True, exist_ok=True)
        for mark in (*self.folder.glob("failed/*"), *self.folder.glob("done/*"), self.stop):
            mark.unlink(missing_ok=True)
        pages = {book.name: digest(book.read_text()) for book in self.books}
        for i, cell in enumerate(self.cells):
            run, before = self.run(i), frozenset()
            for name in self.wanted(run):
                key, needs = run.key(name), run.stage(name).needs()
                before |= {key}
                self.asked += 1
                if key not in self.tasks:
                    self.tasks[key] = Task(key, i, name, frozenset(map(run.key, needs)))
                    self.mark("done", self.tasks[key], {}) if run.has(name) else None
            end = [run.dir.name, sorted(before), pages, sorted(self.stages), cell.parameters]
            self.ends.append(digest(end))
            self.tasks[self.ends[i]] = task = Task(self.ends[i], i, LAST, before)
            said = run.dir / "cell.json"
            if said.exists() and json.loads(said.read_text())["key"] == task.key:
                self.mark("done", task, {})
        self.reused = len(self.marks("done"))

    def summary(self) -> str:
        """What there is to do."""
        left = len(self.tasks) - self.reused
        return (
            f"{len(self.cells)} cells of {self.asked} stages, {len(self.tasks) - len(self.cells)} "
            f"of them different; {left} tasks left to do"
        )

    def run(self, cell: int) -> Run:
        return self.opener(self.cells[cell].config, self.runs_dir)

    def wanted(self, run: Run) -> list[str]:
        """The stages a cell is made of, each after those it stands on."""
        if self.stages:
            names: dict[str, None] = {}
            for name in self.stages:
                _with_needs(run, name, names)
            return list(names)
        last = max((book.name[:2] for book in self.books), default="99")
        return [name for name in PIPELINE if run.stage(name).origin()[1] <= last]

    @property
    def stop(self) -> Path:
        """A file that tells every worker to start nothing more."""
        return self.folder / "stop"

    def mark(self, kind: str, task: Task, said: dict) -> None:
        """Leave word that a task is "done" or has "failed"."""
        write_json(self.folder / kind / task.key, {"task": task.name, "cell": task.cell, **said})

    def marks(self, kind: str) -> dict[str, Path]:
        """Keys of the tasks that are "done" or have "failed", and what was left of them."""
        files = (self.folder / kind).iterdir()
        return {path.name: path for path in files if not path.name.startswith(".")}

    def failures(self) -> dict[int, str]:
        """Cell → the sentence it failed with."""
        said = [json.loads(path.read_text()) for path in self.marks("failed").values()]
        return {s["cell"]: s["error"] for s in said if s["task"] == LAST}

    def seconds(self) -> float:
        """The sum of what all tasks took."""
        said = (json.loads(path.read_text()) for path in self.marks("done").values())
        return sum(s.get("seconds", 0.0) for s in said)

    def results(self) -> list[tuple[str, dict, list[dict]]]:
        """Of each cell that was finished: its run's name, what tells it apart, and its rows."""
        done, found = self.marks("done"), []
        for i, cell in enumerate(self.cells):
            if self.ends[i] in done:
                run = self.run(i)
                found.append((run.dir.name, cell.said, self.rows(run)))
        return found

    def rows(self, run: Run) -> list[dict]:
        """A cell's results: its main table, or what its stages measured, validation in plain
        numbers and the test part as shares.
        """
        main = run.dir / "tables" / "main.json"
        if main.exists() and not self.stages:
            return json.loads(main.read_text())
        rows = []
        for name in self.stages or self.wanted(run):
            said = run.summary(name)
            row = {f"val {k.removeprefix('val_')}": v for k, v in said.get("best", {}).items()}
            test = said.get("test")  # of the split's it is a count
            shares = test.items() if isinstance(test, dict) else ()
            row |= {k: share for k, v in shares if (share := as_rate(v))}
            if name.startswith("recognizer/"):
                row["acc"] = tables.measure_accuracy(run, name.split("/")[1])["average"]
            rows += [{"approach": name} | row] if row else []
        return rows


def _with_needs(run: Run, name: str, names: dict[str, None]) -> None:
    for need in run.stage(name).needs():
        _with_needs(run, need, names)
    names[name] = None


# --- a worker -----------------------------------------------------------------


def work(batch: Batch, number: int) -> None:
    """Make what can be made and nobody else is making, until nothing is left.

    A failure is kept, with all that stands on it; what does not is made all the same.
    """
    before, at, run = dict(os.environ), -1, None
    try:
        _settle(batch, number)
        while not batch.stop.exists() and (not batch.parent or psutil.pid_exists(batch.parent)):
            done, failed = batch.marks("done"), batch.marks("failed")
            left = [t for t in batch.tasks.values() if t.key not in done and t.key not in failed]
            if not left:
                return
            left.sort(key=lambda task: task.cell != at)  # what is in memory is used again
            task, lock = _claimed(batch, left, done, failed)
            if task is None:
                time.sleep(0.1)
                continue
            try:
                if task.cell != at:
                    at, run = task.cell, batch.run(task.cell)
                _do(batch, task, run)
            finally:
                lock.release()
    except KeyboardInterrupt:
        batch.stop.touch()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _settle(batch: Batch, number: int) -> None:
    """A process of its own: its share of the threads, one GPU, and Ctrl-C only by way of the
    command that started it, so that it comes once.
    """
    os.environ["PPFER_PROGRESS"] = str(batch.folder / "log.txt")
    if os.getpid() == batch.parent:
        return
    if batch.parent:
        os.setpgid(0, 0)
    multiprocessing.set_start_method(None, force=True)  # of its children, which decode videos
    multiprocessing.current_process()._config["daemon"] = False  # Dask's may have none
    if batch.threads:
        torch.set_num_threads(batch.threads)
        os.environ["OMP_NUM_THREADS"] = str(batch.threads)  # of notebooks' kernels
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = given.split(",") if given else [str(i) for i in range(torch.cuda.device_count())]
    if len(gpus) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]


def _claimed(
    batch: Batch, left: list[Task], done: Mapping[str, Path], failed: Mapping[str, Path]
) -> tuple[Task, FileLock] | tuple[None, None]:
    """The first task whose needs are there and that nobody else has, with its lock taken."""
    for task in left:
        if broken := task.needs & failed.keys():
            said = json.loads(failed[min(broken)].read_text())
            batch.mark("failed", task, {"error": said["error"]})
        elif task.needs <= done.keys():
            lock = FileLock(batch.folder / "claims" / task.key)
            with contextlib.suppress(Timeout):
                lock.acquire(blocking=False)
                ended = batch.marks("done").keys() | batch.marks("failed").keys()
                if task.key not in ended:  # since they were looked at
                    return task, lock
                lock.release()
    return None, None


def _do(batch: Batch, task: Task, run: Run) -> None:
    """A task, done or failed; what a failure says in full is kept in the run's folder."""
    began, trace = time.monotonic(), run.dir / "failed.txt"
    try:
        if task.name == LAST:
            _end(batch, task, run)
        else:
            run.make(task.name, load=False)
    except Exception as error:  # a cell's, not the batch's
        kind = "" if isinstance(error, PpferError) else f"{type(error).__name__}: "
        with atomic(trace) as partial:
            partial.write_text(traceback.format_exc())
        batch.mark("failed", task, {"error": f"{run.dir.name}, {task.name}: {kind}{error}"})
        return
    trace.unlink(missing_ok=True)
    batch.mark("done", task, {"seconds": round(time.monotonic() - began, 2)})


def _end(batch: Batch, task: Task, run: Run) -> None:
    """What ends a cell: its notebooks, or the main run's tables."""
    cell = batch.cells[task.cell]
    run.introduce()
    hide = audit.to_hide(run) if batch.books else None
    common = {"profile": cell.config.profile, "seed": cell.config.seed}
    common |= {"settings": cell.settings, "runs_dir": batch.runs_dir}
    for book in batch.books:
        out = run.dir / "notebooks" / book.name
        own = {k: v for k, v in cell.parameters.items() if k in parameters_of(book)}
        try:
            execute(book, out, hide, **common, **own)
        except PpferError as error:
            raise PpferError(f"{error} (as far as it came: {out})") from error
    if not batch.books and not batch.stages:
        tables.run_all(run)
    write_json(run.dir / "cell.json", {"key": task.key, "cell": cell.said})


# --- all of them --------------------------------------------------------------


def carry_out(batch: Batch, workers: int, dask: str = "") -> None:
    """Do all that is left of a batch.

    Args:
        workers: processes on this machine; 1 works in this one.
        dask: "local" for a Dask cluster of so many processes here, or a scheduler's address, whose
            workers are all used and share this disk.

    Raises:
        KeyboardInterrupt: after everybody has stopped in good order.
        PpferError: if a worker was killed, or there is no such cluster.
    """
    if batch.reused == len(batch.tasks):
        return
    cores = joblib.cpu_count() // workers
    batch.threads = int(os.environ.get("OMP_NUM_THREADS", 0)) or max(1, cores)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_Followed(batch))
        if dask:
            workers = stack.enter_context(_dask(dask, workers))
            batch.parent, batch.threads = 0, batch.threads if dask == "local" else 0
        if workers == 1 and not dask:
            work(batch, 0)
        else:
            stack.enter_context(_Stopping(batch))
            _together(batch, workers)
    if batch.stop.exists():
        raise KeyboardInterrupt


def _together(batch: Batch, workers: int) -> None:
    idle = {"idle_worker_timeout": 10} if batch.parent else {}  # s, where the command was killed
    pool = joblib.Parallel(workers, batch_size=1, pre_dispatch="all", **idle)
    try:
        pool(joblib.delayed(work)(batch, number) for number in range(workers))
    except TerminatedWorkerError as error:
        raise PpferError(
            "a worker was killed, often for lack of memory; what is finished is kept, and the same "
            "command with fewer --workers goes on"
        ) from error


@contextlib.contextmanager
def _dask(where: str, workers: int) -> Iterator[int]:
    """A Dask cluster behind joblib; yields how many workers it has."""
    try:
        from distributed import Client, LocalCluster  # an extra
    except ImportError as error:
        raise PpferError("--dask needs Dask: pip install 'ppfer[cluster]'") from error
    with contextlib.ExitStack() as stack:
        given, how = where, {"n_workers": workers, "threads_per_worker": 1}
        if where == "local":
            given = stack.enter_context(LocalCluster(**how, dashboard_address=None))
        try:
            client = stack.enter_context(Client(given, timeout=20))
        except (OSError, ValueError) as error:
            raise PpferError(f"there is no Dask scheduler at {where}: {error}") from error
        with joblib.parallel_config("dask"):
            yield len(client.scheduler_info(n_workers=-1)["workers"])


class _Followed:
    """While a batch goes on, a line every few seconds: tasks done, and the last a worker said."""

    def __init__(self, batch: Batch):
        self.batch, self.over = batch, threading.Event()
        self.log = batch.folder / "log.txt"
        self.progress = Progress("batch", len(batch.tasks) - batch.reused, "tasks")
        self.thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> None:
        self.log.write_text("")
        self.thread.start()

    def _follow(self) -> None:
        while not self.over.wait(1):
            self.say()

    def say(self) -> None:
        ended = len(self.batch.marks("done")) + len(self.batch.marks("failed"))
        lines = self.log.read_text().splitlines()
        self.progress.update(ended - self.batch.reused, f"({lines[-1].strip()})" if lines else "")

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.thread.join()
        self.say()


class _Stopping:
    """Ctrl-C, passed on: every worker writes a checkpoint and stops. A second one stops at once."""

    def __init__(self, batch: Batch):
        self.batch = batch

    def __enter__(self) -> None:
        main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
        self.old = {number: signal.signal(number, self.ask) for number in numbers}

    def ask(self, number: int, frame: object) -> None:
        if self.batch.stop.exists():
            raise KeyboardInterrupt
        self.batch.stop.touch()
        print("stopping: every worker first keeps what it has; again to stop at once", flush=True)
        for child in psutil.Process().children() if self.batch.parent else ():
            child.send_signal(signal.SIGINT)

    def __exit__(self, *error: object) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)
