"""What notebooks share: the run context, tables that render, and controls that work with and
without a person.
"""

from __future__ import annotations

import ast
import os
import random
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython import get_ipython
from IPython.display import Markdown, display

from ppfer import config, measure, plots, study
from ppfer.device import device_name
from ppfer.run import Run


def start(
    profile: str = "demo", seed: int = 0, runs_dir: str = "../runs", settings: dict | None = None
) -> Run:
    """Begin a notebook: seed everything, set the look, say what this runs on.

    Args:
        profile: smoke | demo | twin | paper.
        seed: one seed for python, numpy and torch.
        runs_dir: where stage results are read and written.
        settings: dotted overrides of the profile, e.g. ``{"data": "/videos", "privacy.steps":
            50}``.

    Raises:
        PpferError: for a wrong setting, or a parameter from papermill that the notebook lacks.
    """
    _refuse_unknown()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    plots.theme()
    context = study.open_run(
        config.load_config(profile, {"seed": seed, **(settings or {})}), runs_dir
    )
    print(
        f"profile {profile}, seed {seed}, {device_name(context.device)}, "
        f"{context.config.frames} frames of {context.config.size}×{context.config.size}, run "
        f"'{context.dir.name}'"
    )
    return context


def _refuse_unknown() -> None:
    """Papermill puts a cell of parameters behind the notebook's own. It only warns of a name that
    the notebook does not have, and the defaults would run.
    """
    shell = get_ipython()
    cells = shell.user_ns["In"] if shell else []
    for number, cell in enumerate(cells):
        if cell.startswith("# Parameters\n"):
            lines = [ast.parse(c).body for c in (cells[number - 1], cell)]
            known = {at.target.id: ast.literal_eval(at.value) for at in lines[0]}  # typed literals
            given = {at.targets[0].id: shell.user_ns[at.targets[0].id] for at in lines[1]}
            config.checked(known, given, "this notebook")


def interactive() -> bool:
    """True when a person can move widgets: not under papermill, nbconvert or tests
    (``PPFER_HEADLESS``).
    """
    return not os.environ.get("PPFER_HEADLESS")


def explore(function: Callable[..., Any], cases: Sequence[dict], **controls: Any) -> None:
    """Draw a figure for every setting of the controls.

    With a person there: `ipywidgets.interact` over `controls`. Headless: one figure per entry of
    `cases`, because a bare widget leaves no picture behind.

    Args:
        function: draws and returns a matplotlib Figure.
        cases: keyword arguments of the static figures.
        controls: keyword → widget abbreviation (list, range tuple) as `ipywidgets.interact` takes
            them.
    """

    def draw(**values: Any) -> None:
        figure = function(**values)
        display(figure)
        plt.close(figure)

    if interactive():
        ipywidgets.interact(draw, **controls)
    else:
        for case in cases:
            draw(**case)


def show(rows: list[dict], *, name: str = "", context: Run | None = None) -> None:
    """Print a table as Markdown; with a name and a run, also write it to the run's ``tables``
    folder (json and md).
    """
    if name and context is not None:
        rows = measure.write_table(rows, context.dir / "tables", name)
    else:
        rows = measure.plain(rows)
    display(Markdown(measure.markdown(rows)))


def wrote(context: Run, *names: str) -> None:
    """Recap: what each stage did, how long it took and where it lies."""
    for name in names:
        manifest = context.manifest(name)
        best = ", ".join(f"{k} {v:.3f}" for k, v in manifest["summary"].get("best", {}).items())
        print(
            f"{context.dir.name}/{name}: {manifest['seconds']:.0f} s on {manifest['device']}"
            + (f"; best {best}" if best else "")
        )
