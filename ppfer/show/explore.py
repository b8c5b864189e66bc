"""The notebooks' explorer of a face's bands; each control does something or says why not."""

import time
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from html import escape

import ipywidgets
import pywt
from PIL import Image
from torch import Tensor

from ppfer.base.errors import PpferError
from ppfer.base.files import owner_only
from ppfer.run.names import OWN_PICTURES, synthetic
from ppfer.run.run import Run
from ppfer.show import notebook, sources
from ppfer.show.band_picture import DETAILS, Setting, band_picture, kind
from ppfer.show.canvas import on_white

CLIP, OWN = "clip of the run", "own file"
ALL = "all bands"
HINT = "of a picture or clip"
LIMIT = "up to 8 MB, which is what Jupyter lets through; give larger files by their path"


@lru_cache(maxsize=1)  # the same tensor again: `take_apart` knows it
def clip_of(run: Run, actor: str, expression: str) -> tuple[Tensor, str]:
    """The first clip of an actor's expression, (1, T, 3, S, S) in [0, 1], and what it is called;
    another one of the actor where there is none.
    """
    table = run.table
    mine = table.index[table.actor == actor]
    wanted = [i for i in mine if table.emotion[i] == expression]
    first = int([*wanted, *mine][0])
    title = f"{actor} {table.emotion[first]}"
    return run.tensor("clips")[first][None].cpu().float() / 255, title


class BandPanel(ipywidgets.HBox):
    """Controls on the left, the picture on the right.

    An own picture is held in memory only: a notebook's output never has it, and the disk only where
    "save" is pressed.
    """

    def __init__(self, run: Run, start: dict):
        """Begin at `start`, a case of `bands` with every setting."""
        self.run, self.gains, self.own, self.quiet = run, dict(start["gains"]), None, False
        self._controls(start)
        self.reasons, self.words = ipywidgets.HTML(), ipywidgets.HTML()
        self.image = notebook.moving_picture()
        right = ipywidgets.VBox([self.image, self.words])
        right.layout = {"flex": "1 1 0", "min_width": "0", "overflow": "hidden"}
        super().__init__([self._column(), right])
        for control in self.controls.values():
            control.observe(self._moved, "value")
        self.upload.observe(self._uploaded, "value")
        self.save.on_click(self._saved)
        self.reset.on_click(self._reset)
        self._moved()

    def _controls(self, start: dict) -> None:
        """Every control, by the name of its setting."""
        run, last = self.run, max(1, self.run.config.frames - 1)
        self.controls = notebook.named_controls(
            start,
            picture=[CLIP, *sources.CARDS, OWN],
            actor=run.classes("actor"),
            expression=run.classes("emotion"),
            path="",
            frame=(0, last),
            wavelet=pywt.wavelist(kind="discrete"),
            mode=pywt.Modes.modes,
            level=(1, max(3, start["level"])),
            form=["subband", "image"],
            axes=["hw", "t", "thw"],
            band=[DETAILS],
            gain=(0.0, 4.0, 0.25),
            threshold=(0.0, 0.5, 0.01),
            noise=(0.0, 0.3, 0.01),
            shown=[ALL],
            one_scale=False,
        )
        path, one_scale = self.controls["path"], self.controls["one_scale"]
        path.placeholder, path.continuous_update = HINT, False
        one_scale.description, one_scale.indent = "one scale for all levels", False
        self.play = ipywidgets.Play(max=last, interval=250, show_repeat=False)
        ipywidgets.jslink((self.play, "value"), (self.controls["frame"], "value"))
        self.play.value = start["frame"]
        how = {"accept": "image/*,video/*", "description": "upload", "tooltip": LIMIT}
        self.upload = ipywidgets.FileUpload(**how)
        self.save = ipywidgets.Button(description="save PNG", icon="download")
        self.reset = ipywidgets.Button(description="all gains 1", icon="undo")

    def _column(self) -> ipywidgets.VBox:
        """The controls, narrow enough to leave the picture its place."""
        for control in self.controls.values():
            control.style.description_width = "72px"
            control.layout = {"width": "270px", "margin": "0 2px"}
        for button in (self.upload, self.save, self.reset):
            button.layout = {"width": "132px", "margin": "1px 2px"}
        files = ipywidgets.HBox([self.upload, self.save])
        behind, rows = {"path": files, "frame": self.play, "gain": self.reset}, []
        for name, control in self.controls.items():
            rows += [control, behind[name]] if name in behind else [control]
        layout = {"width": "280px", "min_width": "280px"}
        return ipywidgets.VBox([*rows, self.reasons], layout=layout)

    def _moved(self, change: dict | None = None) -> None:
        """Follow a control: bring the others in line, then draw."""
        if self.quiet:
            return
        self.quiet = True  # what changes below redraws once
        try:
            self._follow(change["owner"].description if change else "")
            how = self.setting()
            self.sheet, words = band_picture(self.clip, self.title, how)
            notebook.put(self.sheet, self.image)
            self.drawn = self.source
            self.words.value = escape(words)
        except PpferError as error:
            self.words.value = f"<b>{escape(str(error))}</b>"
        finally:
            self.quiet = False

    def _follow(self, moved: str) -> None:
        """Load what is looked at, offer the bands there are, disable what would do nothing."""
        is_at = self.controls
        if moved == "path" and is_at["path"].value:
            self.own = sources.own(is_at["path"].value, self.run.config.frames)
            is_at["picture"].value = OWN
        self._load()
        frames, size = self.clip.shape[1], self.clip.shape[-2:]
        for widget in (is_at["frame"], self.play):
            widget.max = max(1, frames - 1)

        # a band's gain is remembered; a wider choice replaces what was chosen within it
        band, gain = is_at["band"], is_at["gain"]
        if moved == "gain":
            within = {n for n in self.gains if band.value in (DETAILS, kind(n))}
            within -= {"approximation"} if band.value == DETAILS else set()
            self.gains = {n: g for n, g in self.gains.items() if n not in within}
            self.gains[band.value] = gain.value
        names = self.setting().split().names
        kinds = dict.fromkeys(kind(name) for name in names)
        single = [DETAILS, "approximation"] if is_at["form"].value == "image" else None
        _offer(band, single or list(dict.fromkeys([DETAILS, *kinds, *names])), DETAILS)
        _offer(is_at["shown"], [ALL, *names], ALL)
        gain.value = self.setting().gain(band.value)

        # a word for each control that has no effect now
        how, taps = self.setting(), pywt.Wavelet(is_at["wavelet"].value).dec_len
        lengths = [*(size if "h" in how.axes else ()), *([frames] if "t" in how.axes else ())]
        even = taps == 2 and not any(n % 2**how.level for n in lengths)
        rows = how.level > 1 and how.form == "subband" and how.shown == ALL
        none = "" if is_at["picture"].value == CLIP else "only for clips of the run"
        why = {
            "actor": none,
            "expression": none,
            "frame": "" if frames > 1 else "a still picture has one",
            "axes": "" if frames > 1 else "a still picture has no time",
            "mode": "two taps on even sizes never reach beyond the border" if even else "",
            "one_scale": "" if rows else "one row only",
        }
        notes = defaultdict(list)
        for name, reason in why.items():
            is_at[name].disabled, is_at[name].tooltip = bool(reason), reason or name
            notes[reason].append(name.replace("_", " "))
        self.play.disabled = frames == 1
        lines = [escape(f"{', '.join(of)}: {reason}") for reason, of in notes.items() if reason]
        self.reasons.value = f"<div style='line-height: 1.3'>{'<br>'.join(lines)}</div>"

    def _load(self) -> None:
        """The clip looked at, and what it is called."""
        is_at, table = self.controls, self.run.table
        picture, actor = is_at["picture"].value, is_at["actor"].value
        acted = sorted(table.emotion[table.actor == actor].unique())
        _offer(is_at["expression"], acted, acted[0])
        expression = is_at["expression"].value
        if picture == OWN and self.own is None:
            is_at["picture"].value = self.source
            raise PpferError("give a path or upload a file first")
        if picture == CLIP:
            self.clip, self.title = clip_of(self.run, actor, expression)
        elif picture == OWN:
            self.clip, self.title = self.own, "own picture"
        else:
            self.clip, self.title = sources.card(picture, self.run.config.frames), picture
        self.source = picture

    def setting(self) -> Setting:
        """What the controls say."""
        names = "frame wavelet mode level form axes threshold noise shown one_scale".split()
        values = {name: self.controls[name].value for name in names}
        values["axes"] = values["axes"] if self.clip.shape[1] > 1 else "hw"
        return Setting(**values, gains=dict(self.gains))

    def _uploaded(self, change: dict) -> None:
        """Take an uploaded file; the control forgets it, so that no saved state can hold it."""
        if not self.upload.value:
            return
        file = self.upload.value[0]
        try:
            content = bytes(file["content"])
            self.own = sources.uploaded(file["name"], content, self.run.config.frames)
        except PpferError as error:
            self.words.value = f"<b>{escape(str(error))}</b>"
        else:
            self.quiet = True
            self.controls["path"].value, self.controls["picture"].value = "", OWN
            self.quiet = False
            self._moved()
        finally:
            self.upload.value = ()

    def _saved(self, button: ipywidgets.Button) -> None:
        """Keep the picture where git sees nothing and `ppfer audit` looks: in the run's folder; one
        of an own file beside the runs, since a run of drawn clips is known to show nobody.
        """
        own = self.drawn == OWN
        folder = self.run.dir.parent / OWN_PICTURES if own else self.run.dir / "pictures"
        owner_only(folder)
        path = folder / time.strftime("bands-%Y%m%d-%H%M%S.png")
        self.sheet.save(path)
        found = "; `ppfer audit` lists it, `ppfer clean` removes it" if own else ""
        self.words.value = f"saved as {escape(str(path))}{found}"

    def _reset(self, button: ipywidgets.Button) -> None:
        """Leave every band as it is."""
        self.gains = {}
        self._moved()


def _offer(control: ipywidgets.Dropdown, options: list[str], otherwise: str) -> None:
    """Change what can be chosen; what was chosen stays where it still can be."""
    if list(control.options) != options:
        value = control.value if control.value in options else otherwise
        control.options = options
        control.value = value


def bands(run: Run, cases: Sequence[dict] = ({},)) -> None:
    """The band explorer: a frame, the frame put together again with its bands made stronger or
    weaker, the wavelet that split it, and the bands with their energy; with a person there every
    control of `BandPanel`, beginning with the first case.

    Args:
        cases: settings that differ from the run's own, each a static picture where nobody can move
            a control: picture (one of `ppfer.show.sources.CARDS`, or clips of the run), actor,
            expression, and those of `band_picture.Setting`.
    """
    start = {"picture": CLIP, "actor": run.classes("actor")[0]}
    start |= {"expression": run.classes("emotion")[0], "frame": run.config.frames // 2}
    start |= {**vars(run.config.bands), "gains": {DETAILS: 0.0}}
    start |= {"threshold": 0.0, "noise": 0.0, "one_scale": False}
    cases = [start | case for case in cases]
    if notebook.interactive():
        return notebook.with_controls(BandPanel(run, cases[0]), *static_bands(run, cases[0]))
    for case in cases:
        notebook.picture(*static_bands(run, case))


def static_bands(run: Run, case: dict) -> tuple[Image.Image, str]:
    """What a notebook saves of one setting, on white paper, and its description; a test card where
    clips may be of people: it shows nobody.
    """
    how, config = dict(case), run.config
    picture, actor, expression = (how.pop(name) for name in ("picture", "actor", "expression"))
    drawn = config.generate or synthetic(config.data, config.wild)
    if picture == CLIP and drawn:
        clip, title = clip_of(run, actor, expression)
    else:
        title = "chirp" if picture == CLIP else picture
        clip = sources.card(title, config.frames)
    image, words = band_picture(clip, title, Setting(**how))
    return on_white(image), words
