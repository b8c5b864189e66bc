"""The notebooks' explorer of a face's bands."""

from collections.abc import Sequence

from PIL import Image

from ppfer.run.names import synthetic
from ppfer.run.run import Run
from ppfer.show import notebook, sources
from ppfer.show.band_panel import CLIP, BandPanel, clip_of
from ppfer.show.band_picture import DETAILS, Setting, band_picture
from ppfer.show.canvas import on_white


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
