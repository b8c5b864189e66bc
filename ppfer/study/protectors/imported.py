"""A protector that was trained on other data: what `ppfer export` wrote of another run, on this
run's clips. Here it is attacked and recognised like any other, which is how SPAct and TeD-SPAD are
measured across data sets. Stage: imported.
"""

from pathlib import Path

from ppfer.base.errors import PpferError
from ppfer.config import dotted, to_dict
from ppfer.protect import Apply
from ppfer.run.exported import THEIRS, ExportedRun, read_export
from ppfer.run.run import Run
from ppfer.run.stage import Protector, Stage, stage


@stage("imported", notebook="08")
class Imported(Stage):
    """The file that the setting `imported` names, as the run of which it is all that is there."""

    def settings(self) -> dict:
        if not self.config.imported:
            return {}
        about, _ = read_export(Path(self.config.imported))
        return {"sha256": about["sha256"]}

    def make(self, folder: Path) -> dict:
        if lacking := PROTECTOR.missing(self.run):
            raise PpferError(f"which protector is not said: {lacking}")
        about, _ = read_export(Path(self.config.imported))
        return {key: about[key] for key in ("approach", "title", "what_ran")}

    def load(self, folder: Path) -> ExportedRun:
        own = dotted(to_dict(self.config))
        stages, protectors = self.run.stages.values(), self.run.protectors.values()
        theirs = {key: own[key] for key in THEIRS}
        return ExportedRun(Path(self.config.imported), stages, protectors, theirs)


def build(run: Run) -> Apply:
    """The protector in the file, for clips of this run.

    Raises:
        PpferError: when the file is none, was altered, or is for clips of another kind.
    """
    other = run.get("imported")
    there = other.protector(other.about["approach"])
    if there.named:
        raise PpferError(f"{there.title} has to know the clips it was trained on; it protects none")
    if not there.size and other.config.size != run.config.size:
        raise PpferError(
            f"{run.config.imported} holds {there.title} for pictures of {other.config.size} pixels;"
            f" this run's have {run.config.size}: --set size={other.config.size}"
        )
    return there.build(other)


PROTECTOR = Protector(
    "imported",
    "Imported",
    build,
    lambda run: "trained on other data: {title}, {what_ran}".format(**run.summary("imported")),
    needs=("imported",),
    missing=lambda run: "" if run.config.imported else "--set imported=FILE, from ppfer export",
)
