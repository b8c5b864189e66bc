"""A notebook, run headless by papermill; ``ppfer run`` and ``ppfer batch`` run them in order."""

import ast
import contextlib
import json
import logging
import os
import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
import papermill
import psutil
from jupyter_core.paths import jupyter_runtime_dir

from ppfer.base.errors import PpferError
from ppfer.base.files import sweep
from ppfer.base.processes import interruptible
from ppfer.base.progress import relayed
from ppfer.config import checked
from ppfer.run.names import synthetic
from ppfer.run.run import Run

# What glibc gives back it must ask for again, page by page: a tenth of training's time on a CPU.
KEPT_MEMORY = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
HOMES = ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR")


def parameters_of(path: Path) -> dict[str, object]:
    """A notebook's parameters and their defaults."""
    found = papermill.inspect_notebook(str(path))
    return {name: ast.literal_eval(about["default"]) for name, about in found.items()}


def execute(path: Path, out: Path, hide: list[str] | None = None, **parameters: object) -> None:
    """Run one notebook through papermill into a copy, relaying progress, every parameter checked;
    with names of clips of people to `hide` the copy has neither them nor any picture.

    Raises:
        PpferError: for a parameter the notebook does not have or of another type than its default,
            or when a cell fails (its message).
    """
    given = checked(parameters_of(path), parameters, path.name)
    out.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("papermill").setLevel(logging.ERROR)
    partial = out.with_name(f".{os.getpid():x}-0{out.suffix}")  # as `files.sweep` knows it
    sweep(out.parent)
    try:
        with _kernels_environment(), interruptible(_interrupt_kernels) as stop:
            how = {"cwd": str(path.parent), "kernel_name": "python3", "progress_bar": False}
            how["extra_arguments"] = ["--log-level=50"]  # an ended kernel calls that an error
            try:
                papermill.execute_notebook(str(path), str(partial), given, **how)
            except RuntimeError:
                if stop.is_set():  # a kernel that had not yet begun has ended
                    raise KeyboardInterrupt from None
                raise
    except papermill.PapermillExecutionError as error:
        if error.ename == "KeyboardInterrupt":
            raise KeyboardInterrupt from None
        if error.ename in ("PpferError", "MissingInput"):
            raise PpferError(error.evalue) from None
        raise PpferError(
            f"{path.name}, cell {error.exec_count}: {error.ename}: {error.evalue}; the "
            f"executed copy is {out}"
        ) from error
    finally:
        if partial.exists():
            if hide is not None:
                without_people(partial, hide)
            os.replace(partial, out)


@contextlib.contextmanager
def _kernels_environment() -> Iterator[None]:
    """The environment that a kernel inherits, its progress printed here."""
    before = dict(os.environ)

    def show(lines: list[str]) -> None:
        for line in lines:
            print("      " + line, flush=True)

    with relayed(show), tempfile.TemporaryDirectory(prefix="ppfer-") as folder:
        for name in KEPT_MEMORY:
            os.environ.setdefault(name, str(2**32))
        if not _writable(Path(jupyter_runtime_dir())):  # a container's user, a batch node
            for name in (*HOMES, "MPLCONFIGDIR"):
                os.environ.setdefault(name, folder)
        # figures inline, whatever this process draws with
        os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
        os.environ["PPFER_HEADLESS"] = "1"
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def _writable(folder: Path) -> bool:
    """Whether a folder is there, or can be made, and takes files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _interrupt_kernels() -> None:
    """Ctrl-C for the kernel: the training loop there writes a checkpoint before it stops.

    A kernel that does not listen yet would answer with a traceback; it is ended.
    """
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            begun = child.net_connections("tcp")
            child.send_signal(signal.SIGINT if begun else signal.SIGTERM)


def without_people(path: Path, names: list[str]) -> None:
    """Take every picture out of an executed notebook, and give each named clip a number."""
    book = nbformat.read(path, as_version=4)
    instead = "A picture that may show a person is left out; --allow-real-faces keeps it."
    for output in (o for cell in book.cells for o in cell.get("outputs", [])):
        kinds = set(output.get("data", {}))
        html = str(output.get("data", {}).get("text/html", ""))
        if any(kind.startswith(("image/", "video/")) for kind in kinds) or "data:" in html:
            output["data"] = nbformat.from_dict({"text/plain": instead})
            output["metadata"] = nbformat.from_dict({})  # what the picture showed, and how large
    book.metadata.pop("widgets", None)
    text = nbformat.writes(book)
    known = {json.dumps(n, ensure_ascii=False)[1:-1]: f"clip {i}" for i, n in enumerate(names)}
    every = "|".join(re.escape(name) for name in sorted(known, key=len, reverse=True))
    path.write_text(re.sub(every, lambda m: known[m[0]], text) if known else text, "utf-8")


def private_clip_names(run: Run) -> list[str] | None:
    """Names of the clips that a notebook's copy must not show; None where the clips are of nobody.

    Makes the run's clips, to know their names.
    """
    config = run.config
    if config.generate or synthetic(config.data, config.wild):
        return None
    return [str(name) for name in run.make("clips").table["clip"]]
