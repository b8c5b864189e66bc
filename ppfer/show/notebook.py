"""What notebooks share: the run context, pictures that say what they show, tables, verdicts, and
controls that work with and without a person.
"""

import ast
import base64
import contextlib
import io
import os
import random
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import torch
from IPython import get_ipython
from IPython.display import Markdown, display
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ppfer import config, measure, method
from ppfer.base.device import device_name
from ppfer.base.errors import PpferError
from ppfer.base.files import home
from ppfer.measure import Rate, as_rate
from ppfer.run.clips import names_people
from ppfer.run.run import Run
from ppfer.run.stage import Stage
from ppfer.show import plots

WIDEST = 9  # columns of a table that a page of 1280 pixels shows well
NAMES = ("random_frame", "all_frames", "clip", "remapped")  # count who is named, as plr does
NOBODY = (
    "No identity is measured: training shows too few people, or not those of the test. Whatever "
    "this notebook says of names means nothing, and its tables leave it out."
)
WIDGET = "application/vnd.jupyter.widget-view+json"


def start(
    profile: str = "demo",
    seed: int = 0,
    runs_dir: str = "../runs",
    settings: dict | None = None,
    *,
    study: bool = False,
    stages: Sequence[type[Stage]] = (),
) -> Run:
    """Begin a notebook: seed everything, set the look, say what this runs on.

    Args:
        profile: smoke | demo | twin | paper.
        seed: one seed for python, numpy and torch.
        runs_dir: of all results; counts from the repository's notebooks, wherever the kernel works.
        settings: dotted overrides of the profile, e.g. ``{"data": "DIR", "privacy.steps": 50}``.
        study: the run also makes what the method is compared with, `ppfer.study`.
        stages: what else it can make, without all of the study.

    Raises:
        PpferError: for a wrong setting, or a parameter from papermill that the notebook lacks.
    """
    _refuse_unknown()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    plots.theme()
    chosen = config.load_config(profile, {"seed": seed, **(settings or {})})
    folder = Path(os.path.abspath(config.REPO / "notebooks" / home(runs_dir)))
    context = _open(chosen, folder, study, stages)
    inside = context.dir.is_relative_to(config.REPO)
    print(f"results in {context.dir.relative_to(config.REPO) if inside else context.dir}")
    print(
        f"profile {profile}, seed {seed}, {device_name(context.device)}, "
        f"{context.config.frames} frames of {context.config.size}×{context.config.size}"
    )
    with contextlib.suppress(PpferError):  # its clips need not be there any more
        if context.has("split") and not names_people(context):
            print(NOBODY)
    return context


def _open(chosen: config.Config, runs_dir: Path, study: bool, stages: Sequence[type[Stage]]) -> Run:
    """The run of a notebook; the study and the twin's renderer are imported where it needs them."""
    if study:
        from ppfer.study import catalogue

        return catalogue.open_run(chosen, runs_dir)
    if chosen.generate:
        from ppfer.twin import clips

        stages = (*stages, *clips.stages(chosen))
    return method.open_run(chosen, runs_dir, stages)


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


# --- pictures -------------------------------------------------------------------


def picture(figure: Figure | Image.Image, alt: str) -> None:
    """Show a figure, which is closed, with words for those who can't see it: lines as SVG, grids as
    PNG at 144 dpi.

    Where a person runs the notebook it is an HTML image, since JupyterLab drops other pictures'
    words; in a saved notebook it is what GitHub, nbconvert and an untrusted JupyterLab can show.
    """
    data, notes = _bundle(figure, alt)
    display(data, metadata=notes, raw=True)


def play(clips: Mapping[str, Tensor], alt: str, *, cell: float = 1.2) -> None:
    """Clips, title → (T, 3, H, W), moving side by side: an animated PNG needs no player."""
    steps = zip(*clips.values(), strict=True)
    frames = [plots.image_row(frame, list(clips), cell=cell) for frame in steps]
    colours = frames[len(frames) // 2].quantize(255)  # one palette, so that nothing flickers
    first, *others = (frame.quantize(palette=colours, dither=0) for frame in frames)
    file, how = io.BytesIO(), {"save_all": True, "duration": 150, "loop": 0}
    first.save(file, "PNG", append_images=others, optimize=True, **how)
    data, notes = _outputs(file.getvalue(), first.width, alt)
    display(data, metadata=notes, raw=True)


def _bundle(figure: Figure | Image.Image, alt: str) -> tuple[dict, dict]:
    """Data and metadata of an output, by MIME type."""
    if isinstance(figure, Image.Image):
        return _outputs(plots.png(figure), figure.width, alt)
    grid = any(axis.images for axis in figure.axes)  # pixels don't become lines
    lines = "" if grid else plots.svg(figure, alt)
    image = plots.drawn(figure)
    if not grid:  # only for those who can't be shown the lines
        image = image.reduce(2)
    return _outputs(plots.png(image), plots.DPI * figure.get_figwidth(), alt, lines)


def _outputs(png: bytes, width: float, alt: str, svg: str = "") -> tuple[dict, dict]:
    """`width` is in pixels at 144 dpi."""
    width = round(width * 96 / plots.DPI)
    data = {"image/png": base64.b64encode(png).decode(), "text/plain": alt}
    notes = {"image/png": {"alt": alt, "width": width}}
    kind, shown = ("svg+xml", base64.b64encode(svg.encode()).decode()) if svg else ("png", "")
    if svg:
        data["image/svg+xml"], notes["image/svg+xml"] = svg, {"alt": alt}
    if interactive():
        source = f"data:image/{kind};base64,{shown or data['image/png']}"
        data["text/html"] = f'<img src="{source}" alt="{escape(alt)}" width="{width}">'
    return data, notes


# --- controls -------------------------------------------------------------------


def interactive() -> bool:
    """True when somebody can move controls: not under `ppfer`, nor under papermill or nbconvert
    alone, which tell the kernel that nobody is there to be asked.
    """
    shell = get_ipython()
    if os.environ.get("PPFER_HEADLESS") or shell is None or not hasattr(shell, "kernel"):
        return False
    return bool(shell.kernel.get_parent("shell").get("content", {}).get("allow_stdin"))


def explore(draw: Callable[..., tuple], cases: Sequence[dict], **controls: Any) -> None:
    """Draw a picture for every setting of the controls.

    With a person there: controls that change a picture in place, beginning with the first case;
    the picture is saved with them, the controls' state is not. Without: one picture per entry of
    `cases`, because a bare control leaves nothing to see behind.

    Args:
        draw: from the settings to a PIL image and its description.
        controls: keyword → widget abbreviation (list, range tuple) as `ipywidgets.interact` takes.
    """
    if interactive():
        panel = control_panel(draw, cases[0], **controls)
        return with_controls(panel, *draw(**cases[0]))
    for case in cases:
        picture(*draw(**case))


def with_controls(widgets: ipywidgets.DOMWidget, image: Image.Image, alt: str) -> None:
    """Show controls, and a picture for whoever opens the file without a kernel."""
    data, notes = _bundle(image, alt)
    view = {WIDGET: {"version_major": 2, "version_minor": 0, "model_id": widgets.model_id}}
    display(data | view, metadata=notes, raw=True)


def control_panel(draw: Callable[..., tuple], first: dict, **controls: Any) -> ipywidgets.VBox:
    """Controls, the picture and its description; a moved control redraws the picture in place."""
    named, shown, words = named_controls(first, **controls), moving_picture(), ipywidgets.HTML()

    def redraw(change: dict | None = None) -> None:
        try:
            image, description = draw(**{name: control.value for name, control in named.items()})
        except PpferError as error:  # else nobody would be told
            words.value = f"<b>{escape(str(error))}</b>"
            return
        put(image, shown)
        words.value = escape(description)

    for control in named.values():
        control.observe(redraw, "value")
    redraw()
    row = ipywidgets.Layout(flex_flow="row wrap")
    return ipywidgets.VBox([ipywidgets.Box(list(named.values()), layout=row), shown, words])


def named_controls(first: dict, **controls: Any) -> dict[str, ipywidgets.DOMWidget]:
    """Controls by their names, beginning with the values of `first`."""
    made = {}
    for name, abbreviation in controls.items():
        made[name] = control = ipywidgets.interactive.widget_from_abbrev(abbreviation)
        control.description, control.value = name, first.get(name, control.value)
    return made


def moving_picture() -> ipywidgets.Image:
    """A place for a picture that changes, no wider than what is around it."""
    return ipywidgets.Image(format="webp", layout={"max_width": "100%", "margin": "0"})


def put(image: Image.Image, place: ipywidgets.Image) -> None:
    """Show a picture where another one was: as WebP, exact, in half the time that PNG takes."""
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=True, quality=0, method=0)
    with place.hold_sync():  # one message: the page shows the new picture once
        place.value, place.width = file.getvalue(), str(image.width * 96 // plots.DPI)


def several(options: Sequence[str]) -> ipywidgets.SelectMultiple:
    """A control that picks any of the options; all at first."""
    how = {"rows": min(len(options), 8), "tooltip": "several: Ctrl, Cmd or Shift and click"}
    return ipywidgets.SelectMultiple(options=list(options), value=tuple(options), **how)


# --- words ----------------------------------------------------------------------


def verdict(rate: Rate | np.ndarray, **how: Any) -> str:
    """Print the sentence of `compared`, which takes the same; return "above", "below" or "like"."""
    found, sentence = compared(rate, **how)
    print(sentence)
    return found


def compared(
    rate: Rate | np.ndarray,
    *,
    against: float | Rate | np.ndarray,
    name: str = "",
    than: str = "guessing",
) -> tuple[str, str]:
    """ "above", "below" or "like", and a sentence that says so.

    Args:
        rate: what was measured; or (n,) bool, which clips were right.
        against: a share in [0, 1] such as chance; another rate: then the 95 % interval of the
            difference decides; or (n,) bool of the same clips as `rate`'s: then `measure.mcnemar`
            decides, pair by pair, at 5 %.
        name: what the rate is of; begins the sentence.
        than: what it is compared with.
    """
    this = rate if isinstance(rate, Rate) else measure.rate(rate)
    if isinstance(against, np.ndarray):
        here, there, p = measure.mcnemar(rate, against)
        low, high = (0, 0) if p >= 0.05 else (here - there, here - there)
        only = f"right here alone {here}, there alone {there}, McNemar's p = {p:.2g}"
        other = f"{measure.rate(against)} ({only})"
    elif isinstance(against, Rate):
        by, low, high = measure.difference(this, against)
        points = f"{100 * by:+.1f} points, 95 % interval {100 * low:+.1f} to {100 * high:+.1f}"
        other = f"{against} ({points})"
    else:
        low, high = (edge - against for edge in this.interval)
        other = f"{100 * against:.1f} %"
    found = "above" if low > 0 else "below" if high < 0 else "like"
    words = {"above": "clearly above", "below": "clearly below", "like": "not to be told from"}
    return found, f"{name + ': ' if name else ''}{this} is {words[found]} {than}, {other}."


def happened(*sentences: str) -> None:
    """What this run measured and what that means, under the figure or table it was read from;
    sentences in Markdown, computed, with this run's own numbers.
    """
    display(Markdown(f"**What happened here.** {' '.join(sentences)}"))


def some(places: Sequence[int], count: int) -> np.ndarray:
    """Up to `count` of the places, evenly spread: a part of a split is sorted by actor, and its
    first clips are one or two people's.
    """
    places = np.asarray(places)
    return places[np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int)]


def show(rows: list[dict], *, name: str = "", context: Run | None = None) -> None:
    """Print a table as Markdown, one too wide for a page in parts that each begin with the first
    column; with a name and a run, also write all of it to the run's ``tables`` (json and md), as if
    no clip had been asked about where names of people mean nothing.
    """
    if name and context is not None:
        if not names_people(context):
            counted = {k for row in rows for k in row if k in NAMES or k.startswith("plr")}
            nobody = {k: Rate(0, 0) for k in counted}
            rows = [{k: nobody.get(k, v) if as_rate(v) else v for k, v in r.items()} for r in rows]
        rows = measure.write_table(rows, context.dir / "tables", name)
    else:
        rows = measure.json_rows(rows)
    first, *others = dict.fromkeys(key for row in rows for key in row) or [""]
    for keys in np.array_split(others, -(-len(others) // (WIDEST - 1)) or 1):
        part = [{key: row[key] for key in (first, *keys) if key in row} for row in rows]
        header, rest = measure.markdown(part).split("\n", 1)
        display(Markdown(header.replace("_", "_<wbr>") + "\n" + rest))  # long names may break


def wrote(context: Run, *names: str) -> None:
    """Recap: what each stage did, how long it took and where it lies."""
    for name in names:
        manifest = context.manifest(name)
        best = ", ".join(f"{k} {v:.3f}" for k, v in manifest["summary"].get("best", {}).items())
        print(
            f"{context.dir.name}/{name}: {manifest['seconds']:.0f} s on {manifest['device']}"
            + (f"; best {best}" if best else "")
        )
