"""The perfect swap: a twin clip drawn again with its motion, pose and light on one donor's head.

Nothing of the face is left but how it moves. No method that shows the motion can leak less, so
other rows are read against this one. It exists for the twin alone: of real video nobody knows the
motion.
"""

import dataclasses
from collections.abc import Callable

from torch import Tensor

from ppfer import twin
from ppfer.method.clips import twin_origin
from ppfer.run.run import Run
from ppfer.run.stage import Protector
from ppfer.study.protectors.swap import twin_spec
from ppfer.twin.people import DONOR
from ppfer.video import sample_positions


def build_donor(run: Run) -> Callable[[Tensor, range], Tensor]:
    """Clips (B, T, 3, H, W) and their rows → the same clips with the donor's face."""
    origin, names, size = twin_origin(run.config), list(run.table["clip"]), run.config.size
    face = twin.Actor(DONOR)
    times = sample_positions(origin["frames"], run.config.frames)  # as the store does

    def drawn(clips: Tensor, rows: range) -> Tensor:
        specs = [dataclasses.replace(twin_spec(names[row], origin), face=face) for row in rows]
        return twin.render_clips(specs, size, clips.device, times=times).float() / 255

    return drawn


def donor_missing(run: Run) -> str:
    """What the perfect swap cannot do without."""
    return "" if twin_origin(run.config) else "the true motion is known of the twin's clips alone"


PROTECTOR = Protector(
    "donor",
    "Perfect swap (limit)",
    build_donor,
    "the twin's true motion, pose and light on one donor's head",
    needs=("clips",),
    rows=True,
    missing=donor_missing,
)
