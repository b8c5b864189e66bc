"""Notebooks, run headless by papermill: which there are, how one is executed, what of it is kept
for a commit.
"""

from __future__ import annotations

import base64
import io
import logging
import os
import signal
import tempfile
import threading
from pathlib import Path

import nbformat
import papermill
import psutil
from PIL import Image

from ppfer.config import REPO, PpferError

NOTEBOOKS = REPO / "notebooks"
MAIN = ("00", "01", "02", "03", "04", "05", "06", "07", "12")  # the whole method, once
TABLES = ("08", "09", "10")  # comparisons, attacks, ablations


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


def execute(path: Path, out: Path, **parameters: object) -> None:
    """Run one notebook through papermill, relaying progress, with every parameter checked.

    Args:
        path: the notebook.
        out: executed copy.
        parameters: values for its ``parameters`` cell; those equal to the cell's defaults are left
            out.

    Raises:
        PpferError: for a parameter the notebook does not have, or when a cell fails (its message).
    """
    known = papermill.inspect_notebook(str(path))
    unknown = [name for name in parameters if name not in known]
    if unknown:
        raise PpferError(
            f"{path.name} has no parameter {', '.join(unknown)}; it has {', '.join(known)}"
        )
    given = {k: str(v) if isinstance(v, Path) else v for k, v in parameters.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("papermill").setLevel(logging.ERROR)

    with _relay() as progress, _interrupts():
        before = dict(
            os.environ
        )  # the kernel's environment: figures inline whatever this process draws with
        os.environ.update(
            PPFER_PROGRESS=str(progress),
            PPFER_HEADLESS="1",
            MPLBACKEND="module://matplotlib_inline.backend_inline",
        )
        try:
            papermill.execute_notebook(
                str(path),
                str(out),
                given,
                cwd=str(path.parent),
                kernel_name="python3",
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

    def __enter__(self) -> None:
        self.main = threading.current_thread() is threading.main_thread()
        self.old = (
            [(n, signal.signal(n, self._pass)) for n in (signal.SIGINT, signal.SIGTERM)]
            if self.main
            else []
        )

    def _pass(self, number: int, frame: object) -> None:
        for child in psutil.Process().children():
            child.send_signal(signal.SIGINT)

    def __exit__(self, *error: object) -> None:
        for number, handler in self.old:
            signal.signal(number, handler)


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
