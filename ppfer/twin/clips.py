"""The twin's clips, rendered straight into a store: what a run has in place of decoded videos where
``config.generate``.
"""

from pathlib import Path

from ppfer.base.errors import PpferError
from ppfer.base.progress import Progress
from ppfer.config import Config
from ppfer.data.store import ClipStore
from ppfer.run.clips import ACTOR_FOLDS, Clips, Wild
from ppfer.run.stage import Stage
from ppfer.twin.acting import main_specs, wild_specs
from ppfer.twin.files import render_clips, table


class _Rendered(Stage):
    """A ClipStore rendered by the generator, on the run's device."""

    version = 2

    def settings(self) -> dict:
        folds = self.config.fold != 1 and self.config.split_by != ACTOR_FOLDS
        if folds or self.config.labels != "intended":
            raise PpferError(
                "drawn clips (generate) have no votes, and folds only with split_by=actor_folds"
            )
        return Stage.settings(self) | {"difficulty": self.config.difficulty}

    def make(self, folder: Path) -> dict:
        config, source = self.config, {"generated": self.name}
        wild = config.wild_clips if self.wild else 0
        how = {"frames": config.frames, "difficulty": config.difficulty}
        specs = wild_specs(wild, **how) if wild else main_specs(config.actors, **how)
        progress = Progress(f"{self.name}: rendering", len(specs), "clips")
        pixels = render_clips(specs, config.size, self.run.device, progress.update).split(64)
        store = ClipStore.from_array(folder / "store", pixels, table(specs), source=source)
        return {"clips": len(store), "rejected": len(store.rejected), "sha256": store.hash}


class RenderedClips(_Rendered, Clips):
    """V: the twin's main clips."""


class RenderedWild(_Rendered, Wild):
    """The twin's in-the-wild clips."""


def stages(config: Config) -> tuple[type[Stage], ...]:
    """What takes the place of the stages of the same name: nothing where clips are decoded."""
    return (RenderedClips, RenderedWild) if config.generate else ()
