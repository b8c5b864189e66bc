"""The twin's clips, rendered straight into a store: what a run has in place of decoded videos where
``config.generate``.
"""

from __future__ import annotations

from pathlib import Path

from ppfer.base.errors import PpferError
from ppfer.base.progress import Progress
from ppfer.config import Config
from ppfer.data.store import ClipStore
from ppfer.run.clips import ACTOR_FOLDS, Clips, Wild
from ppfer.run.stage import Stage
from ppfer.twin.files import generate_arrays


class _Rendered(Stage):
    """A ClipStore rendered by the generator, on the run's device."""

    def settings(self) -> dict:
        folds = self.config.fold != 1 and self.config.split_by != ACTOR_FOLDS
        if folds or self.config.labels != "intended":
            raise PpferError(
                "drawn clips (generate) have no votes, and folds only with split_by=actor_folds"
            )
        return Stage.settings(self) | {"difficulty": self.config.difficulty}

    def make(self, folder: Path) -> dict:
        config, wild = self.config, self.config.wild_clips if self.wild else 0
        pixels, table = generate_arrays(
            actors=config.actors,
            wild=wild,
            seed=0,
            frames=config.frames,
            size=config.size,
            difficulty=config.difficulty,
            device=self.run.device,
            progress=Progress(
                f"{self.name}: rendering", wild or 82 * config.actors, "clips"
            ).update,
        )
        source = {"generated": self.name}
        store = ClipStore.from_array(folder / "store", pixels.split(64), table, source=source)
        return {"clips": len(store), "rejected": len(store.rejected), "sha256": store.hash}


class RenderedClips(_Rendered, Clips):
    """V: the twin's main clips."""


class RenderedWild(_Rendered, Wild):
    """The twin's in-the-wild clips."""


def stages(config: Config) -> tuple[type[Stage], ...]:
    """What takes the place of the stages of the same name: nothing where clips are decoded."""
    return (RenderedClips, RenderedWild) if config.generate else ()
