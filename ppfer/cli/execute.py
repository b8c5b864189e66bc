"""Notebooks, run headless by papermill: which there are, how one is executed, what of it is kept
for a commit.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import logging
import os
import re
import signal
import tempfile
import threading
from pathlib import Path

import nbformat
import papermill
import psutil
from PIL import Image

from ppfer.base.errors import PpferError
from ppfer.base.files import sweep
from ppfer.cli import kernels
from ppfer.config import REPO, checked

# What glibc gives back it must ask for again, page by page: a tenth of training's time on a CPU.
KEPT = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
NOTEBOOKS = REPO / "notebooks"
MAIN = ("00", "01", "02", "03", "04", "05", "06", "07", "12")  # the whole method, once
TABLES = ("08", "09", "10", "11")  # comparisons, attacks, ablations, beyond the paper


def notebooks(which: str) -> list[Path]:
    """Notebook files for "main", "tables", "all" or a comma-separated list of numbers, in order.

    Raises:
        PpferError: if a number has no notebook.
    """
    numbers = {"main": MAIN, "tables": TABLES, "all": tuple(sorted(MAIN + TABLES))}.get(
        which
    ) or tuple(number.strip().zfill(2) for number in which.split(","))
    found = {path.name[:2]: path for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}
    missing = [n for n in numbers if n not in found]
    if missing:
        raise PpferError(
            f"there is no notebook {', '.join(missing)} in {NOTEBOOKS}; there are "
            f"{', '.join(found)}"
        )
    return [found[n] for n in numbers]


def parameters_of(path: Path) -> dict[str, object]:
    """A notebook's parameters and their defaults."""
    found = papermill.inspect_notebook(str(path))
    return {name: ast.literal_eval(about["default"]) for name, about in found.items()}


def about(path: Path) -> tuple[str, str]:
    """A notebook's question, and its row "| reads | writes | takes about |"."""
    title = nbformat.read(path, as_version=4).cells[0].source
    question = title.splitlines()[0].partition(" · ")[2]
    return question, title.partition("|---|---|---|\n")[2].splitlines()[0]


def thumbnail(path: Path, side: int = 160) -> Image.Image | None:
    """The picture of the cell tagged "thumbnail", or the largest there is, made small."""
    found = []
    for cell in nbformat.read(path, as_version=4).cells:
        chosen = "thumbnail" in cell.metadata.get("tags", [])
        for output in cell.get("outputs", []):
            coded = output.get("data", {}).get("image/png")
            found += [(chosen, len(coded), coded)] if coded else []
    if not found:
        return None
    image = Image.open(io.BytesIO(base64.b64decode(max(found)[2]))).convert("RGB")
    image.thumbnail((side, side))
    return image


def student(folder: Path, *, solutions: bool = False) -> list[Path]:
    """Copies of the notebooks to work in, without outputs; files that are there already stay.

    Args:
        folder: links and `runs_dir` are made to fit wherever it is.
        solutions: whether the cells with solutions are kept.

    Returns:
        The files that were written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    here, written = Path(os.path.relpath(REPO, folder.resolve())).as_posix(), []
    moved = {"](../": f"]({here}/", '"../runs"': f'"{here}/runs"'}
    moved |= {f"]({name})": f"]({here}/notebooks/{name})" for name in ("README.md", "GLOSSARY.md")}
    for path in notebooks("all"):
        copy = folder / path.name
        if copy.exists():
            continue
        book = nbformat.read(path, as_version=4)
        for cell in list(book.cells):
            if not solutions and "solution" in cell.metadata.get("tags", []):
                book.cells.remove(cell)
            for old, new in moved.items():
                cell.source = cell.source.replace(old, new)
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(book, copy)
        written.append(copy)
    return written


def execute(path: Path, out: Path, hide: list[str] | None = None, **parameters: object) -> None:
    """Run one notebook through papermill, relaying progress, with every parameter checked.

    Args:
        path: the notebook.
        out: executed copy.
        hide: names of clips of people: the copy then has neither them nor any picture.
        parameters: values for its ``parameters`` cell; those equal to the cell's defaults are left
            out.

    Raises:
        PpferError: for a parameter the notebook does not have or of another type than its default,
            or when a cell fails (its message).
    """
    given = checked(parameters_of(path), parameters, path.name)
    out.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("papermill").setLevel(logging.ERROR)

    partial = out.with_name(f".{os.getpid():x}-0{out.suffix}")  # as `device.sweep` knows it
    sweep(out.parent)
    followed = os.environ.get("PPFER_PROGRESS")  # by whoever started this
    with contextlib.nullcontext(followed) if followed else _relay() as progress:
        before = dict(os.environ)
        for kept in KEPT:
            os.environ.setdefault(kept, str(2**32))
        os.environ.update(  # the kernel's: figures inline whatever this process draws with
            PPFER_PROGRESS=str(progress),
            PPFER_HEADLESS="1",
            MPLBACKEND="module://matplotlib_inline.backend_inline",
        )
        try:
            with _interrupts(kernels.ready(dict(os.environ))):
                papermill.execute_notebook(
                    str(path),
                    str(partial),
                    given,
                    cwd=str(path.parent),
                    kernel_name="python3",
                    kernel_manager_class=kernels.Manager,
                    progress_bar=False,
                    log_output=False,
                    extra_arguments=["--log-level=40"],
                )  # errors only
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
            os.environ.clear()
            os.environ.update(before)
            if partial.exists():
                if hide is not None:
                    without_people(partial, hide)
                os.replace(partial, out)


def without_people(path: Path, names: list[str]) -> None:
    """Take every picture out of an executed notebook, and give each named clip a number."""
    book = nbformat.read(path, as_version=4)
    said = "A picture that may show a person is left out; --allow-real-faces keeps it."
    for output in (o for cell in book.cells for o in cell.get("outputs", [])):
        kinds = set(output.get("data", {}))
        html = str(output.get("data", {}).get("text/html", ""))
        if any(kind.startswith(("image/", "video/")) for kind in kinds) or "data:" in html:
            output["data"] = nbformat.from_dict({"text/plain": said})
            output["metadata"] = nbformat.from_dict({})  # what the picture showed, and how large
    book.metadata.pop("widgets", None)
    text = nbformat.writes(book)
    known = {json.dumps(n, ensure_ascii=False)[1:-1]: f"clip {i}" for i, n in enumerate(names)}
    every = "|".join(re.escape(name) for name in sorted(known, key=len, reverse=True))
    path.write_text(re.sub(every, lambda m: known[m[0]], text) if known else text)


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
    """While a kernel works, pass Ctrl-C on to it: the training loop there writes a checkpoint
    before it stops.
    """

    def __init__(self, server: kernels.Server | None):
        self.server = server  # that the kernel is a child of; else it is this process's
        self.asked = False

    def __enter__(self) -> None:
        self.main = threading.current_thread() is threading.main_thread()
        self.old = (
            [(n, signal.signal(n, self._pass)) for n in (signal.SIGINT, signal.SIGTERM)]
            if self.main
            else []
        )

    def _pass(self, number: int, frame: object) -> None:
        self.asked = True
        server = self.server.process.children() if self.server else []
        for child in psutil.Process().children() + server:
            child.send_signal(signal.SIGINT)

    def __exit__(self, kind: type | None, error: object, trace: object) -> None:
        for number, handler in self.old:
            signal.signal(number, handler)
        if self.asked and isinstance(error, RuntimeError):  # a kernel that had not yet begun ended
            raise KeyboardInterrupt from None


def keep(executed: Path, target: Path) -> None:
    """Take an executed copy's outputs into the committed notebook: no injected cell, widget state,
    timings or paths.
    """
    book = nbformat.read(executed, as_version=4)
    book.cells = [c for c in book.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    for count, cell in enumerate((c for c in book.cells if c.cell_type == "code"), 1):
        cell.execution_count = count
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
    for cell in book.cells:
        cell.metadata = nbformat.from_dict(
            {k: v for k, v in cell.metadata.items() if k == "tags" and v}
        )
    book.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    nbformat.write(book, target)
