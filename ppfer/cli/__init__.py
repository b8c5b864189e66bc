"""The command line. `options` says what each command takes; the module that does it is imported
only once the command was found right, since PyTorch takes seconds.
"""

import _thread
import contextlib
import errno
import functools
import importlib
import os
import sys
import threading
from types import ModuleType

from ppfer.base.errors import PpferError, out_of_memory, printable
from ppfer.base.processes import end_with_the_others, world
from ppfer.cli.options import MODULES, parser
from ppfer.cli.settings import settings_of

PATIENCE = 8.0  # seconds without a word
TROUBLE = {  # of a machine, in words
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk's quota is used up",
    errno.EROFS: "the disk can only be read",
    errno.EACCES: "a file or folder may not be read or written",
    errno.EPERM: "a file or folder may not be changed",
    errno.EMFILE: "too many files are open",
    errno.EEXIST: "a file lies where a folder is to be",
    errno.ENOTDIR: "a file lies where a folder is to be",
}


def main(argv: list[str] | None = None) -> int:
    """Parse, run, and turn the user's mistakes into one sentence and exit code 2."""
    args = parser().parse_args(argv)
    end_with_the_others()
    try:
        if hasattr(args, "set"):
            # a mistake is said before PyTorch; what was trained outlives its data
            settings_of(args, there=args.command not in ("protect", "export"))
        if args.command == "run":
            importlib.import_module("ppfer.cli.notebooks").chosen(args.notebooks)
        module = _imported(f"ppfer.cli.{MODULES.get(args.command, args.command)}")
        code = getattr(module, args.command)(args) or 0
        print(end="", flush=True)
        return code
    except PpferError as error:
        print(f"ppfer: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # nobody reads on: ppfer settings | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be said
        return 141
    except KeyboardInterrupt:
        print("ppfer: stopped; the same command goes on from there", file=sys.stderr)
        return 130
    except (OSError, MemoryError, RuntimeError, ImportError) as error:
        if not (sentence := _machine_trouble(error)):
            raise
        print(f"ppfer: {sentence}", file=sys.stderr)
        return 2


def _imported(module: str) -> ModuleType:
    """A module; a line says so where a busy machine or a slow disk is long about it."""
    there = threading.Event()
    with contextlib.suppress(RuntimeError):  # a `Thread` waits for ever where memory is too little
        words = "loading PyTorch and other libraries"
        say = functools.partial(print, words, file=sys.stderr, flush=True)
        _thread.start_new_thread(lambda: there.wait(PATIENCE) or say(), ())
    try:
        return importlib.import_module(module)
    finally:
        there.set()


def _machine_trouble(error: BaseException) -> str:
    """What to say of an error that is the machine's and not the program's; "" of any other."""
    why = TROUBLE.get(getattr(error, "errno", None), "")
    if out_of_memory(error):
        why = "the memory does not suffice"
    if world() > 1 and "by peer" in str(error):
        why = "another process of this run has ended"
    file = getattr(error, "filename", None)
    where = printable(f" ({file})") if file else ""
    then = "change that and run the same command again: finished stages are kept"
    return f"{why}{where}; {then}" if why else ""
