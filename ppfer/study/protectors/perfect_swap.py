"""The perfect swap: a twin clip drawn again with its motion, pose and light on one donor's head.

Nothing of the face is left but how it moves. No method that shows the motion can leak less, so
other rows are read against this one. It exists for the twin alone: of real video nobody knows the
motion.
"""

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from ppfer import twin
from ppfer.protect import NamedApply
from ppfer.run.clips import by_clip, twin_origin
from ppfer.run.run import Run
from ppfer.run.stage import Protector
from ppfer.study.protectors.swap import twin_spec
from ppfer.twin.people import DONOR
from ppfer.video import sample_positions


def build_donor(run: Run) -> NamedApply:
    """Clips (B, T, 3, H, W) and their names → the same clips with the donor's face."""
    origin, face, size = twin_origin(run.config), twin.Actor(DONOR), run.config.size
    specs = by_clip(run, (twin_spec(name, origin) for name in run.table["clip"]))
    times = sample_positions(origin["frames"], run.config.frames)  # as the store does

    def drawn(clips: Tensor, names: Sequence[str]) -> Tensor:
        swapped = [dataclasses.replace(specs[name], face=face) for name in names]
        return twin.render_clips(swapped, size, clips.device, times=times).float() / 255

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
    named=True,
    missing=donor_missing,
)
