"""How long does Algorithm 1 run? The dial the paper does not name, as rows of their own.

Stopped at the least changed private frames, G is a face under a dither. Run long, −CE without a
bound goes on after the frozen controller is at chance, and takes everything with it: the regime of
the paper's Tables 3 and 4, in which the compensator has something to bring back.
"""

from ppfer import protect
from ppfer.method.privacy import SHARES
from ppfer.run.run import Run
from ppfer.run.stage import Protector
from ppfer.study.attacks.recovery import recovery_cells
from ppfer.study.tables import prepare, table_row

ENHANCER, COMPENSATOR = "privacy/long", "compensation/enhanced_long"
# the curve: Algorithm 1 stopped at the least change, trained ever longer, and in full
CURVE = ("enhanced", *(f"enhanced_long_{part}" for part in SHARES), "enhanced_long")


def _said(run: Run, stage: str = ENHANCER) -> str:
    train = run.stage(stage).train
    return f"Algorithm 1 for {train.steps} steps at lr {train.lr:g}, {train.select} weights"


def _enhanced(title: str, part: str = "") -> Protector:
    stage = ENHANCER + part
    return Protector(
        f"enhanced_long{part}",
        title,
        lambda run: run.get(stage),
        lambda run: _said(run, stage) + "; no F_fc",
        needs=(stage,),
        notebook="10",
    )


PROTECTORS = (
    *(_enhanced(f"PPFER (G), 1/{part} of the long run", f"_{part}") for part in SHARES),
    _enhanced("PPFER run long, without compensation (G)"),
    Protector(
        "ppfer_long",
        "PPFER run long (C)",
        lambda run: protect.PPFER(run.get(ENHANCER), run.get(COMPENSATOR)),
        lambda run: _said(run) + "; F_fc under C_fc",
        needs=(ENHANCER, COMPENSATOR),
        notebook="10",
        compensates="enhanced_long",
    ),
)


def schedule_table(run: Run) -> list[dict]:
    """How long Algorithm 1 runs against what is left of identity, expression and picture: one row
    a point of `CURVE`, both protocols, and what a recovery U-Net brings back.
    """
    prepare(run, CURVE, ("recognizer", "attack", "recovery"))
    rows = []
    for name in CURVE:
        cells = table_row(run, name)
        steps = run.summary(run.protector(name).needs[0])["best_step"]
        row = {"approach": cells.pop("approach"), "steps": steps}
        del cells["what_ran"]
        back = {f"recovery_{key}": cell for key, cell in recovery_cells(run, name).items()}
        rows.append(row | cells | back)
    return rows
