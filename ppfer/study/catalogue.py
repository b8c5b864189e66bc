"""Every protector and every stage there is, listed here and nowhere else.

A new one is a file with its `Protector` (and, if it is trained, its stage), and a line in the lists
below.
"""

from pathlib import Path

from ppfer import method
from ppfer.base.files import atomic
from ppfer.base.processes import is_main
from ppfer.config import Config
from ppfer.measure import write_table
from ppfer.run.names import RUNS
from ppfer.run.run import Run
from ppfer.study import paper, tables
from ppfer.study.attacks import (
    actions,
    attributes,
    features,
    flicker,
    linkage,
    probes,
    recovery,
    retrained,
    within,
)
from ppfer.study.protectors import (
    ablation,
    blur,
    codebook,
    codebook_training,
    deface,
    flow,
    imported,
    live,
    names,
    reenactment,
    regressor,
    simple_baselines,
    spact,
    swap,
)
from ppfer.twin import clips

PROTECTORS = (
    *method.PROTECTORS,
    live.PROTECTOR,
    reenactment.PROTECTOR,
    reenactment.NEUTRAL,
    codebook.PROTECTOR,
    names.PROTECTOR,
    imported.PROTECTOR,
    *blur.PROTECTORS,
    spact.PROTECTOR,
    flow.PROTECTOR,
    *swap.PROTECTORS,
    *ablation.LONG_RUN,
    *recovery.PROTECTORS,
    *simple_baselines.PROTECTORS,
    *deface.PROTECTORS,
    *ablation.PROTECTORS,
)

STAGES = (
    *method.STAGES,
    live.Live,
    regressor.Regression,
    codebook_training.Strangers,
    codebook_training.CodebookTraining,
    names.Names,
    imported.Imported,
    probes.Probe,
    blur.Blurred,
    blur.Blur,
    spact.Contrast,
    spact.Tradeoff,
    swap.Landmarks,
    deface.FoundFaces,
    retrained.FromScratch,
    retrained.OfAnotherFamily,
    retrained.OnClips,
    actions.Motions,
    actions.Actions,
    linkage.Linkage,
    within.Numbers,
    within.Within,
    flicker.Steadiness,
    recovery.RecoveryAttack,
    attributes.Attribute,
    features.OnThumbnails,
    features.Features,
    ablation.Joint,
)


def open_run(config: Config, runs_dir: str | Path = RUNS, device: str | None = None) -> Run:
    """A run that can make everything there is; see `ppfer.run.run.Run`."""
    stages = (*STAGES, *clips.stages(config))
    return Run(config, runs_dir, device, stages=stages, protectors=PROTECTORS)


def compare(run: Run) -> None:
    """Tables 1, 3 and 4, the stronger questions, the discrepancies (after `tables.run_all`)."""
    folder = run.dir / "tables"

    # every row's clips first: a protector that breaks the protocol ends it here
    names = tables.prepare(run, tables.approaches(run), ())
    makers = {
        "table1": tables.table1,
        "table1_attackers": lambda run: tables.leakage_table(run, names),
        "table1_attributes": lambda run: attributes.attribute_table(run, names),
        "table1_groups": lambda run: attributes.accuracy_table(run, names),
        "table1_features": lambda run: features.feature_table(run, names),
        "table3": recovery.table3,
        "table4": ablation.table4,
        "schedule": ablation.schedule_table,
        "live": recovery.beyond_table,
    }
    if not attributes.attributes_of(run):
        del makers["table1_attributes"], makers["table1_groups"]
    for name, table in makers.items():
        rows = table(run)
        if is_main():
            write_table(rows, folder, name)
    if is_main():
        with atomic(folder / "discrepancies.md") as partial:
            partial.write_text(paper.discrepancies(folder), "utf-8")
