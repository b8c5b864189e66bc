"""The paper's method, one file a question: who it is, how that is removed, how the expression is
brought back.

Order: identity → pretrain → privacy (Algorithm 1) → protected/enhanced (G) → expression →
compensation (Algorithm 2) → protected/ppfer (C), then what is trained on protected clips:
recognizer (F_u) and attack (V_pl retrained). In each file an objective stands before the stage that
trains with it.
"""

from collections.abc import Iterable
from pathlib import Path

from ppfer import protect
from ppfer.config import Config
from ppfer.method import compensation, identity, networks, privacy, recognition
from ppfer.run import clips
from ppfer.run.names import RUNS
from ppfer.run.run import Run
from ppfer.run.stage import Protector, Stage

STAGES = (
    *(clips.Clips, clips.Wild, clips.Split, clips.Protected),
    *(identity.Identity, identity.Attack, privacy.Pretrain, privacy.Privacy),
    *(compensation.Expression, compensation.Compensation, recognition.Recognizer),
)


def departures(run: Run, *algorithms: str) -> str:
    """What a run does differently from the paper's algorithms, for the tables."""
    config = run.config
    chosen = any(getattr(config, name).select != "last" for name in algorithms)
    l1 = config.fidelity > 0 and "compensation" in algorithms
    ours = ["U-Nets add to their input"] * config.nets.unet_residual + ["the kept step"] * chosen
    ours += ["an L1 term in Algorithm 2"] * l1
    return f" (ours: {', '.join(ours)})" if ours else ""


PROTECTORS = (
    Protector(
        "none",
        "No privacy preservation",
        lambda run: protect.no_privacy,
        "the original clips",
        notebook="05",
    ),
    Protector(
        "copies",
        "Copies, before Algorithm 1",
        lambda run: networks.start_enhancer(run).to(run.device).eval(),
        "one U-Net trained to give both bands back as they are",
        needs=("pretrain",),
        notebook="04",
    ),
    Protector(
        "enhanced",
        "PPFER without compensation (G)",
        lambda run: run.get("privacy"),
        lambda run: "Algorithm 1: one U-Net per band" + departures(run, "privacy"),
        needs=("privacy",),
        notebook="04",
    ),
    Protector(
        "ppfer",
        "PPFER (C)",
        lambda run: protect.PPFER(run.get("privacy"), run.get("compensation")),
        lambda run: (
            "Algorithms 1 and 2: two U-Nets and a U-ViT"
            + departures(run, "privacy", "compensation")
        ),
        needs=("privacy", "compensation"),
        notebook="05",
    ),
)

PIPELINE = (
    *("clips", "wild", "split", "identity", "pretrain", "privacy"),
    *("protected/none", "protected/copies", "protected/enhanced"),
    *("expression", "compensation", "protected/ppfer"),
    *("recognizer/none", "recognizer/enhanced", "recognizer/ppfer"),
    *("attack/none", "attack/enhanced", "attack/ppfer"),
)


def open_run(
    config: Config, runs_dir: str | Path = RUNS, stages: Iterable[type[Stage]] = ()
) -> Run:
    """A run (`ppfer.run.run.Run`) that can make what the paper's method needs, and nothing to
    compare it with; of more `stages` one of a known kind takes that one's place.
    """
    return Run(config, runs_dir, stages=(*STAGES, *stages), protectors=PROTECTORS)
