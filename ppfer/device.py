"""The ground floor: the device, the processes, progress a person can follow, and the one way a file
is written.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import platform
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import torch
import torchvision
from torch import Tensor

from ppfer import __version__
from ppfer.config import PpferError

# --- devices ------------------------------------------------------------------


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bf16 autocast where `precision` asks for it ("auto": on CUDA only)."""
    on = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=on)


def send(small: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor to a device without waiting for what the device has still to do.

    From pageable memory a copy would wait.
    """
    if device.type != "cuda":
        return small.to(device)
    return small.pin_memory().to(device, non_blocking=True)


_usual: list[int] = []  # threads without `lone_threads`, once for each of its pools at work


@contextlib.contextmanager
def lone_threads(count: int = 0) -> Iterator[ThreadPoolExecutor]:
    """Threads each of which computes alone, for pictures too small to be shared by several.

    PyTorch takes what one thread is told for all that begin later; the last pool that is closed
    puts it right.

    Args:
        count: of threads; 0: as many as PyTorch uses.
    """
    usual = _usual[0] if _usual else torch.get_num_threads()
    _usual.append(usual)
    alone = {"initializer": torch.set_num_threads, "initargs": (1,)}
    try:
        with ThreadPoolExecutor(count or usual, **alone) as pool:
            yield pool
    finally:
        _usual.pop()
        if not _usual:
            torch.set_num_threads(usual)


def device_name(device: torch.device) -> str:
    """E.g. "NVIDIA H100 80GB HBM3" or "CPU x86_64, 2 threads"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {platform.machine()}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Versions a result depends on."""
    return {
        "ppfer": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
    }


@contextlib.contextmanager
def fitting(what: str, device: torch.device, advice: str) -> Iterator[None]:
    """Turn a lack of memory into a sentence that says what to change.

    Raises:
        PpferError: in place of `torch.OutOfMemoryError` and its like.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not out_of_memory(error):
            raise
        raise PpferError(
            f"{what} does not fit the memory of {device_name(device)}; run again with less at "
            "once, "
            f"e.g. {advice}. Finished stages whose settings stay the same are kept. `ppfer cost` "
            "says what each stage takes"
        ) from error


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, a GPU's or the machine's."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    words = ("allocate memory", "start new thread", "a primitive", "failed to map segment")
    return isinstance(error, kinds) or any(word in str(error) for word in words)


# --- processes of ``accelerate launch`` ---------------------------------------


def rank() -> int:
    """Number of this process, 0 with one process."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many processes work together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """True in the one process that writes files."""
    return rank() == 0


def wait_for_everyone() -> None:
    """A barrier over all processes; nothing with one."""
    if world() > 1:
        from accelerate import PartialState  # starts the process group: only where there is one

        PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()


def end_with_the_others(patience: float = 20.0) -> None:
    """With several processes: see to it that SIGTERM, which the launcher sends once one has died,
    ends this one with a sentence, also where it waits for that one inside a library.

    No handler of Python's runs there, and a GPU's collective waits for minutes.

    Args:
        patience: seconds in which to stop in good order; the launcher kills after 30.
    """
    if world() == 1:
        return
    seen, noted = os.pipe()
    os.set_blocking(noted, False)
    signal.set_wakeup_fd(noted, warn_on_full_buffer=False)

    def watch() -> None:
        while os.read(seen, 1)[0] != signal.SIGTERM:
            pass
        time.sleep(patience)
        why = "another process of this run has ended, and this one still waited for it"
        said = f"ppfer: {why}; run the same command again: finished stages are kept"
        print(said, file=sys.stderr, flush=True)
        os._exit(2)

    threading.Thread(target=watch, daemon=True).start()


# --- files --------------------------------------------------------------------


_files = itertools.count()  # several files may be under way in one folder


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Write a file whole or not at all.

    Yields a temporary path of the same suffix beside `path`; it takes `path`'s place when the block
    ends without an exception, and is removed otherwise. Its name is short, so that any name that
    fits a disk can be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid():x}-{next(_files):x}{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def sweep(folder: Path, seconds: float = 60) -> None:
    """Remove what `atomic` left in a folder when its process was killed.

    A file stays while its process runs, or where it was written to in the last `seconds`: on a
    shared disk another machine may be at work. Whoever holds the folder's lock can say 0.
    """
    for path in folder.glob(".*-*"):
        named = re.fullmatch(r"\.([0-9a-f]+)-[0-9a-f]+", path.stem)
        if not named or psutil.pid_exists(int(named[1], 16)):
            continue
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime >= seconds:
                path.unlink()


def private(folder: Path) -> None:
    """Make a folder that is its owner's alone: whatever lies in it is out of others' reach."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        with contextlib.suppress(PermissionError):  # another's folder: theirs to decide
            folder.chmod(0o700)


def write_json(path: str | Path, value: object) -> None:
    """Write JSON whole or not at all."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=1, default=str) + "\n")


# --- progress -----------------------------------------------------------------


class Progress:
    """Progress a person can follow: a plain line every few seconds.

    Lines go to the file named by ``PPFER_PROGRESS`` if set (`ppfer run` relays it to the terminal
    while papermill holds the kernel's output), else to stdout outside a notebook, else to one line
    that is redrawn in the notebook.
    """

    def __init__(self, label: str, total: int, unit: str, every: float = 5.0):
        self.label, self.total, self.unit, self.every = label, total, unit, every
        self.start = self.shown = time.monotonic()
        self.file = os.environ.get("PPFER_PROGRESS")
        self.handle = None

    def update(self, done: int, note: str = "") -> None:
        """Report that `done` of the total is finished; prints at most every few seconds."""
        now = time.monotonic()
        if done < self.total and now - self.shown < self.every:
            return
        self.shown = now
        elapsed = now - self.start
        left = ""
        if 0 < done < self.total:
            left = f", {elapsed / done * (self.total - done):.0f} s left"
        words = (self.label, f"{done}/{self.total}", self.unit, note, f"{elapsed:.0f} s{left}")
        self._say(" ".join(word for word in words if word))

    def _say(self, line: str) -> None:
        if self.file:
            with open(self.file, "a") as stream:
                stream.write(line + "\n")
        elif "ipykernel" in sys.modules and sys.modules["IPython"].get_ipython():
            from IPython.display import display  # only where a notebook has imported it already

            if self.handle is None:
                self.handle = display({"text/plain": line}, raw=True, display_id=True)
            else:
                self.handle.update({"text/plain": line}, raw=True)
        elif is_main():
            print(line, flush=True)
