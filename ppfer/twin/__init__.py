"""The twin: seeded synthetic talking-face clips with CREMA-D's shape, and others in DFEW's layout.

Nothing here is a recording. A linear head model (`data/head_model.npz`, see `data/README.md`) is
given a shape, a skin and a way of moving per actor, and an expression, a sentence, a pose and a
light per clip. `raster` draws triangles, `head` poses and draws heads, `paint` colours them,
`people` says who is in a clip, `acting` what they do, and `files` makes clips of it all.
"""

from ppfer.twin.acting import ClipSpec, actor_specs, motion
from ppfer.twin.files import generate, landmarks, render_clips
from ppfer.twin.people import Actor

__all__ = ["Actor", "ClipSpec", "actor_specs", "generate", "landmarks", "motion", "render_clips"]
