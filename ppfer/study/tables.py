"""A table is a loop over protectors: what each row needs is made, then both measures are taken
under both protocols.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from ppfer import measure
from ppfer.base.processes import is_main
from ppfer.measure import Rate, Worst
from ppfer.method import PIPELINE
from ppfer.method.networks import leak
from ppfer.run.clips import has_motions, names_people
from ppfer.run.run import Run

MAIN = ("none", "enhanced", "ppfer")  # what every run measures
# the paper's approaches
TABLE1 = ("none", "blur1", "blur2", "tradeoff", "flow", "swap", "ppfer")
# with ``approaches = "all"``: Algorithm 1 run long, what people reach for, a control and the limit
MORE = (
    *("ppfer_long", "deface_blur", "mosaic", "landmarks", "motion", "mean"),
    *("live", "reenactment", "codebook", "donor"),
)
# rows of notebook 11; the last one where all are asked for
WHOLE_BEYOND = ("none", "ppfer", "live", "reenactment", "codebook", "donor", "ppfer_long")
SUITE = {  # attackers of every row: the stage that trains each on protected clips
    "attack": "validator retrained",
    "attack_scratch": "validator from scratch",
    "attack_clips": "R3D on clips",
}
LINEAR = "linear layer on thumbnails"
WHOLE_SUITE = SUITE | {"attack_other": "ConvNeXt from scratch"}  # where all are asked for


def all_asked(run: Run) -> bool:
    """Whether the config asks for more rows than the paper's."""
    return run.config.approaches == "all"


def beyond(run: Run) -> tuple[str, ...]:
    """The rows of notebook 11."""
    return WHOLE_BEYOND if all_asked(run) else WHOLE_BEYOND[:-1]


def suite(run: Run) -> dict[str, str]:
    """The attackers every row runs through: stages, and what they are called."""
    return WHOLE_SUITE if all_asked(run) else SUITE


def approaches(run: Run, more: Sequence[str] = MORE) -> tuple[str, ...]:
    """The rows of Table 1 and others: the paper's, and `more` where all are asked for."""
    return (*TABLE1, *more) if all_asked(run) else TABLE1


# --- making what a table needs ------------------------------------------------


def prepare(run: Run, names: Sequence[str], kinds: Sequence[str]) -> list[str]:
    """Make what a table over protectors needs: their inputs, their clips, and stages trained on
    those, "<kind>/<protector>" of every kind, such as "recognizer" and "attack".

    Returns:
        The names that can run here; of the others `Protector.missing` tells what to install.
    """
    ready = [name for name in names if not run.protector(name).missing(run)]
    for name in ready:
        run.ensure(f"protected/{name}")
    for name in ready:
        for kind in kinds:
            run.ensure(f"{kind}/{name}")
    return ready


def left_out(run: Run, name: str) -> dict:
    """The row of an approach that cannot run here."""
    protector = run.protector(name)
    return {"approach": protector.title, "what_ran": f"left out: {protector.missing(run)}"}


def rows_of(
    run: Run, names: Sequence[str] | None, kinds: Sequence[str], row: Callable[[str], dict]
) -> list[dict]:
    """The rows of a table over protectors, `approaches` where none are named, all of which is made
    first; see `prepare`.
    """
    names = approaches(run) if names is None else names
    ready = prepare(run, names, kinds)
    return [row(name) if name in ready else left_out(run, name) for name in names]


# --- measures of a protector --------------------------------------------------


def measure_leakage(
    run: Run, name: str, *, retrained: bool = False, remapped: bool = True
) -> dict[str, Rate]:
    """PLR of a protector's test clips under the frozen validator, or under the one retrained on
    its training clips.

    ``remapped`` (see `measure.remapped_leakage`) looks at all training clips too; leave it out
    where time counts.
    """
    validator, store = f"attack/{name}" if retrained else "identity", f"protected/{name}"
    rates = leak(run, validator, store, "test")
    if remapped:
        known, asked = (
            (run.logits(validator, store, part), run.labels("actor")[run.parts[part]])
            for part in ("train", "test")
        )
        rates["remapped"] = measure.remapped_leakage(*known, *asked)
    return rates


def in_steps(steps: int) -> str:
    """An attacker's budget, in words."""
    return f", {steps} steps" if steps else ""


def worst(rows: Iterable[Mapping]) -> Worst | None:
    """The attack that names, or reads, the greatest share, of rows with "attack", "k", "n" and
    perhaps "steps"; None of none.
    """
    most = max((r for r in rows if r["n"]), key=lambda r: r["k"] / r["n"], default=None)
    return most and Worst(most["k"], most["n"], most["attack"] + in_steps(most.get("steps", 0)))


def worst_leakage(run: Run, name: str, clips: int = 1) -> Worst | None:
    """The most any attacker that was tried names, on the test part, and which one: the validator as
    trained, its best renaming of people, a linear layer on thumbnails, every member of `suite`, and
    from within where that was tried (`ppfer.study.attacks.within`). He holds so many `clips` of one
    person, and adds up their log-probabilities; None where no person has as many test clips.
    """
    store, truth = f"protected/{name}", run.labels("actor")[run.parts["test"]]
    attackers = {"identity": "validator as trained", f"attack_linear/{name}": LINEAR}
    for kind, title in suite(run).items():
        network = f"{kind}/{name}"
        attackers[network] = title + in_steps(run.stage(network).train.steps)

    tried = []
    for network, title in attackers.items():
        if clips > 1:
            answers = run.logits(network, store, "test").log_softmax(-1)
            whole = answers.mean(1) if answers.ndim == 3 else answers  # (n, actors)
            rates = {"added up": measure.pooled(whole, truth, clips)}
        elif network == "identity":
            rates = measure_leakage(run, name)
        else:
            rates = leak(run, network, store, "test")
        for by, rate in rates.items():
            tried.append(rate.to_dict() | {"attack": f"{title}, {by.replace('_', ' ')}"})
    for row in run.get(f"within/{name}") if run.has(f"within/{name}") else ():
        if row["clips"] == clips:
            tried.append(row | {"attack": f"from within: {row['attack']}"})
    return worst(tried)


def measure_accuracy(run: Run, name: str, *, retrained: bool = True) -> dict[str, Rate]:
    """Recall per expression and "average" on a protector's test clips; F_u trained on its clips,
    or (frozen) on the originals.
    """
    recognizer = f"recognizer/{name}" if retrained else "recognizer/none"
    logits = run.logits(recognizer, f"protected/{name}", "test")
    truth = run.labels("emotion")[run.parts["test"]]
    return measure.per_class(logits, truth, run.classes("emotion"))


# --- tables -------------------------------------------------------------------


def table_row(run: Run, name: str, *, retrained: bool = True) -> dict:
    """One row of Table 1: PLR and ACC with networks trained on the originals (frozen) and, if
    asked, on the protected clips.

    The paper's own row is ``plr`` beside ``acc_retrained``: V_pl never sees a protected clip, F_u
    is trained on them.
    """
    protector, again = run.protector(name), (False, True) if retrained else (False,)
    plr = [measure_leakage(run, name, retrained=r, remapped=False)["random_frame"] for r in again]
    acc = [measure_accuracy(run, name, retrained=r)["average"] for r in again]
    row = {"approach": protector.title, "what_ran": protector.description(run)}
    row |= zip(("plr", "plr_retrained"), plr, strict=False)
    return row | dict(zip(("acc", "acc_retrained"), acc, strict=False))


def main_table(run: Run) -> list[dict]:
    """Both protocols of both measures: the rows a run ends with. After the originals what is named
    and read through the copies that Algorithm 1 begins with, by networks as trained.
    """
    if not run.has("protected/copies"):  # asking one process alone to make it waits for the others
        run.ensure("protected/copies")
    first, *others = (table_row(run, name) for name in MAIN)
    rows = [first, table_row(run, "copies", retrained=False), *others]
    if not names_people(run):  # as if no clip had been asked about
        rows = [row | {key: Rate(0, 0) for key in row if key.startswith("plr")} for row in rows]
    return rows


def table1(run: Run, names: Sequence[str] | None = None, *, retrained: bool = True) -> list[dict]:
    """Table 1: PLR and ACC of every approach, both protocols or only the frozen one; with
    ``retrained`` the worst attack of the suite, and where all approaches are asked for, what
    `whole_row` has besides of those in `beyond`. Makes what is missing; an approach that cannot run
    here keeps its row, without numbers, saying what to install.
    """

    def row(name: str) -> dict:
        if retrained:
            return whole_row(run, name, more=all_asked(run) and name in beyond(run))
        run.ensure(f"steadiness/{name}")
        flicker = run.get(f"steadiness/{name}")
        return table_row(run, name, retrained=False) | {"flicker": flicker}

    return rows_of(run, names, (), row)


def whole_row(run: Run, name: str, *, more: bool = True) -> dict:
    """`table_row` with the worst attack on one, four and sixteen clips and flicker; with `more`
    also attacks from within, linkage of strangers and, of a twin, R² of the facial actions. Makes
    what is missing, all at once, while the protector's clips are at hand.
    """
    kinds = ["recognizer", "attack_linear", *suite(run), "steadiness"]
    kinds += ["within", "linkage"] * more + ["actions"] * (more and has_motions(run))
    for kind in kinds:
        run.ensure(f"{kind}/{name}")
    row = table_row(run, name) | {"plr_worst": worst_leakage(run, name)}
    for clips in measure.HELD[1:]:
        if worst := worst_leakage(run, name, clips):
            row[f"plr_worst_{clips}"] = worst
    if more:
        row["linkage"] = measure.as_rate(run.summary(f"linkage/{name}")["test"])
    if more and has_motions(run):
        row["actions_r2"] = run.summary(f"actions/{name}")["test"]["actions_r2"]
    return row | {"flicker": run.get(f"steadiness/{name}")}


def table2(run: Run, names: Sequence[str] = MAIN) -> list[dict]:
    """Table 2: recall per expression of F_u trained on each approach; the last column is of all."""
    return [
        {"approach": run.protector(name).title, **measure_accuracy(run, name)} for name in names
    ]


def leakage_table(run: Run, names: Sequence[str] = MAIN) -> list[dict]:
    """PLR, frozen and retrained, by every attacker; one row per protector and protocol."""
    return [
        {
            "approach": run.protector(name).title,
            "validator": "retrained" if retrained else "frozen",
            **measure_leakage(run, name, retrained=retrained),
        }
        for name in names
        for retrained in (False, True)
    ]


def run_all(run: Run, names: Sequence[str] = PIPELINE) -> None:
    """Make every stage of the main run in order, without notebooks, then write its tables."""
    for name in names:
        run.make(name)
    if is_main():
        made = {"table2": table2, "main": main_table}
        made |= {"leakage": leakage_table} if names_people(run) else {}
        for name, table in made.items():
            measure.write_table(table(run), run.dir / "tables", name)
