"""Files opened in child processes: one that hangs or crashes a decoder costs only itself."""

import dataclasses
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future, TimeoutError
from multiprocessing.context import SpawnContext, SpawnProcess

from pebble import ProcessExpired, ProcessPool

from ppfer.base.errors import PpferError
from ppfer.data.listing import Index
from ppfer.video.clips import inspect

WORKERS, TIMEOUT = 2, 60.0  # processes; seconds for a file


class _Process(SpawnProcess):
    """A child that does not run the caller's script again: it needs none of it."""

    @staticmethod
    def _Popen(process: SpawnProcess) -> object:
        process.__class__ = SpawnProcess  # as which it is pickled: a child imports nothing for it
        main = vars(sys.modules["__main__"])
        hidden = {name: main[name] for name in ("__file__", "__spec__") if name in main}
        main.update(dict.fromkeys(hidden))
        try:
            return SpawnProcess._Popen(process)
        finally:
            main.update(hidden)


class _Context(SpawnContext):
    Process = _Process


def in_children(function: Callable, jobs: Iterable[tuple]) -> Iterator[object]:
    """Call a function with each job's arguments in child processes; yields in the jobs' order.

    Where the function hung for `TIMEOUT` seconds or crashed its process, the answer is an
    exception.
    """
    pool = ProcessPool(WORKERS, context=_Context())
    pending: deque = deque()
    try:
        _started(pool)
        for job in jobs:
            pending.append(pool.schedule(function, args=job, timeout=TIMEOUT))
            if len(pending) > 8 * WORKERS:  # bounded: clips wait in memory
                yield _answer(pending.popleft())
        yield from map(_answer, pending)
    finally:
        pool.stop()
        pool.join()


def _started(pool: ProcessPool) -> None:
    """Wait for a child's answer: one that can't start would look like a file that crashes it."""
    try:
        pool.schedule(os.getpid).result()
    except (ProcessExpired, BrokenExecutor) as error:
        raise PpferError(
            "the processes that decode videos do not start; see why: python -c 'import ppfer.video'"
        ) from error


def _answer(job: Future) -> object:
    try:
        return job.result()
    except TimeoutError:
        return PpferError(f"hung the decoder: {TIMEOUT:g} s")
    except ProcessExpired as error:
        return PpferError(f"crashed the decoder: exit {error.exitcode}")


def inspected(index: Index, on_file: Callable[[int], object] = lambda done: None) -> Index:
    """An index whose files were looked into, `on_file` told how many so far."""
    faults, remarks = [], list(index.remarks)
    paths = index.table["path"]

    # each file in a child process: its fault, or what is odd about it
    answers = in_children(inspect, zip(paths))
    for path, answer in zip(paths, answers, strict=True):
        fault, odd = (str(answer), []) if isinstance(answer, PpferError) else answer
        faults.append(fault)
        remarks += [(os.path.relpath(path, index.root), remark) for remark in odd if not fault]
        on_file(len(faults))
    table, rejected = index.without(faults)

    # a person needs a clip to train on and another to be tested on
    people = table["actor"].value_counts() if table["actor"].any() else {}
    lone = [name for name, count in people.items() if count == 1]
    remarks += [(f"actor {name}", "has 1 clip: too few to train and to test on") for name in lone]
    found = {"table": table.reset_index(drop=True), "rejected": rejected}
    return dataclasses.replace(index, **found, remarks=tuple(remarks), looked_into=True)
