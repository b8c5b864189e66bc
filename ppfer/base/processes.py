"""Processes: which one of ``accelerate launch`` this is, and how they all end in good order."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

PATIENCE = 20.0  # seconds in which to stop in good order; the launcher kills after 30


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
        import torch  # seconds that `ppfer --help` need not wait for
        from accelerate import PartialState  # starts the process group: only where there is one

        PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()


def end_with_the_others() -> None:
    """With several processes: see to it that SIGTERM, which the launcher sends once one has died,
    ends this one with a sentence, also where it waits for that one inside a library.

    No handler of Python's runs there, and a GPU's collective waits for minutes.
    """
    if world() == 1 or not hasattr(os, "set_blocking"):  # Windows, before Python 3.12
        return
    seen, noted = os.pipe()
    os.set_blocking(noted, False)
    signal.set_wakeup_fd(noted, warn_on_full_buffer=False)

    def watch() -> None:
        while os.read(seen, 1)[0] != signal.SIGTERM:
            pass
        time.sleep(PATIENCE)
        why = "another process of this run has ended, and this one still waited for it"
        text = f"ppfer: {why}; run the same command again: finished stages are kept"
        print(text, file=sys.stderr, flush=True)
        os._exit(2)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def interruptible(pass_on: Callable[[], object] | None = None) -> Iterator[threading.Event]:
    """Turn Ctrl-C (and SIGTERM) into an event, so that nothing is left half done, and `pass_on` it
    where other processes do the work; a second one interrupts at once.

    Outside the main thread, where no signal comes, the event is never set.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        if pass_on:
            pass_on()

    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
