"""How long does Algorithm 1 run? The dial the paper does not name, as rows of their own.

Stopped at the least changed private frames, G is a face under a dither. Run long, −CE without a
bound goes on after the frozen controller is at chance, and takes everything with it: the regime of
the paper's Tables 3 and 4, in which the compensator has something to bring back.
"""

from ppfer import protect
from ppfer.run import Run
from ppfer.stage import Protector

ENHANCER, COMPENSATOR = "privacy/long", "compensation/enhanced_long"


def _said(run: Run) -> str:
    train = run.config.privacy_long
    return f"Algorithm 1 for {train.steps} steps at lr {train.lr:g}, {train.select} weights"


PROTECTORS = (
    Protector(
        "enhanced_long",
        "PPFER run long, without compensation (G)",
        lambda run: run.get(ENHANCER),
        lambda run: _said(run) + "; no F_fc",
        needs=(ENHANCER,),
        notebook="10",
    ),
    Protector(
        "ppfer_long",
        "PPFER run long (C)",
        lambda run: protect.PPFER(run.get(ENHANCER), run.get(COMPENSATOR)),
        lambda run: _said(run) + "; F_fc under C_fc",
        needs=(ENHANCER, COMPENSATOR),
        notebook="10",
        source="enhanced_long",
    ),
)
