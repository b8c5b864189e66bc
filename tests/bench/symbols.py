"""The codebook's symbols: how it was chosen, what a person's mean gives away, who performs best.

    python tests/bench/symbols.py [--profile twin] [--runs DIR] [--only TABLE …] --out DIR

`calibration_of_codes`: the shipped codebook, where each person's mean is taken off the codes or the
numbers; minutes, of what `numbers/none` needs. `codebook`: encoders that learn under other settings
from synthetic strangers, who are read first (minutes on a GPU, hours without); their symbols' names
and attackers, for the strangers that are held out and for the run's people. `performances`: F_u as
trained on the shipped codebook's symbols, each performed by a clip of the donor's that is chosen in
another way, in three seeds; it trains F_u for each.

Attackers see symbols alone: who counts them, discriminant analysis of which symbol it is, and both
together. Writes a table of each name.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import common
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ppfer.base.files import write_json
from ppfer.cli.compare import over_seeds
from ppfer.config import load_config
from ppfer.data.split import split
from ppfer.data.words import EMOTIONS
from ppfer.measure import HELD, Rate, accuracy, pooled, write_table
from ppfer.run.names import RUNS, made_in
from ppfer.run.run import Run
from ppfer.study.attacks.within import SOLVED, by_clips, counted, discriminated
from ppfer.study.catalogue import open_run
from ppfer.study.protectors import codebook, codebook_training, reenactment
from ppfer.study.protectors.codebook import FINEST, Codebook
from ppfer.study.protectors.names import own_means

COUNTS = (6, 24, 96, FINEST)
SEEDS = (0, 1, 2)
LEARNED = ((400, 1.0), (400, 0.0), (400, 4.0), (144, 1.0))  # strangers, weight of privacy
FEW = 8  # clips whose mean is a fingerprint
CLARITIES = (0.0, 0.5, 2.0, 8.0)

# --- who attacks, and what is left --------------------------------------------------


def named(symbols: Tensor, count: int, people: Tensor, parts: dict[str, Tensor]) -> dict:
    """The most that any attacker names of the test part by symbols (N,), of people (N,)."""
    solved = {"symbols counted": counted(symbols, people, parts, count)}
    solved[SOLVED] = discriminated(F.one_hot(symbols, count).float(), people, parts)
    solved["both together"] = sum(solved.values())
    truth = people[parts["test"]].cpu().numpy()
    return by_clips(
        [
            {"attack": attack, "clips": clips, **pooled(said.cpu(), truth, clips).to_dict()}
            for clips, (attack, said) in itertools.product(HELD, solved.items())
        ]
    )


def expressed(book: Codebook, symbols: Tensor, count: int, emotions: Tensor) -> Rate:
    """Clips whose symbol is named after their expression."""
    right = book.expressions(symbols, count) == emotions
    return Rate(int(right.sum()), len(right))


def of_run(run: Run) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """A run's numbers (N, T, 55), expressions as in `EMOTIONS`, people and parts."""
    run.ensure("numbers/none")
    numbers = run.get("numbers/none")
    place = torch.tensor([EMOTIONS.index(name) for name in run.classes("emotion")])
    emotions = place[torch.as_tensor(run.labels("emotion"))].to(numbers.device)
    people = torch.as_tensor(run.labels("actor")).to(numbers.device)
    parts = {key: torch.as_tensor(rows).to(numbers.device) for key, rows in run.parts.items()}
    return numbers, emotions, people, parts


# --- a person's mean taken off ------------------------------------------------------


def of_few(codes: Tensor, people: Tensor, known: Tensor) -> Tensor:
    """The mean code of so few known clips of each clip's person, (N, D)."""
    means = [codes[known[people[known] == who][:FEW]].mean(0) for who in people.unique()]
    return torch.stack(means)[people]


def means_taken_off(book: Codebook, numbers: Tensor, people: Tensor, known: Tensor) -> dict:
    """Title → codes (N, D), calibrated in so many ways."""
    codes = book(numbers)
    own = own_means(numbers.flatten(1), people).unflatten(1, numbers.shape[1:]).mean(1)
    shifted = numbers - own[:, None] + numbers.mean((0, 1))
    return {
        "as read": codes,
        "each person's mean over all clips taken off the code": (
            codes - own_means(codes, people) + codes.mean(0)
        ),
        "the mean of eight clips of each person taken off the code": (
            codes - of_few(codes, people, known) + codes.mean(0)
        ),
        "each person's mean over all clips taken off the numbers": book(shifted),
    }


@torch.no_grad()
def calibrated(opened: Callable[..., Run]) -> Iterator[dict]:
    """Rows: a way of calibrating, a seed, so many symbols."""
    for seed in SEEDS:
        run = opened(seed=seed)
        numbers, emotions, people, parts = of_run(run)
        book = codebook.build(run).book
        ways = means_taken_off(book, numbers, people, parts["train"])
        for count, (title, codes) in itertools.product(COUNTS, ways.items()):
            symbols = torch.cdist(codes, book.reduced(count)[0]).argmin(1)
            about = {"calibration": title, "seed": seed, "symbols": count}
            told = expressed(book, symbols, count, emotions)
            yield about | named(symbols, count, people, parts) | {"expression named": told}


# --- how the encoder learns ---------------------------------------------------------


def of_strangers(held: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """People counted from 0, and their clips dealt out as a run's are."""
    who = held["who"]
    columns = {"actor": who.tolist(), "emotion": held["emotion"].tolist()}
    parts = split(pd.DataFrame({"clip": range(len(who))} | columns).astype(str))
    people = torch.unique(who, return_inverse=True)[1]
    return people, {key: torch.as_tensor(rows).to(who.device) for key, rows in parts.items()}


@torch.no_grad()
def learned(opened: Callable[..., Run]) -> Iterator[dict]:
    """Rows: settings an encoder learns under, so many symbols."""
    numbers, emotions, people, parts = of_run(opened())
    for strangers, weight in LEARNED:
        about = {"codebook_people": strangers, "codebook_privacy": weight}
        run = opened(codebook_weights="", **about)
        with torch.enable_grad():
            run.ensure("codebook")
        book, held = run.get("codebook").eval(), run.stage("codebook").parts[1]
        who, theirs = of_strangers(held)
        for count in COUNTS:
            row = {"strangers": strangers, "weight of privacy": weight, "symbols": count}
            found = book.symbols(held["numbers"], count)
            row["strangers held out: expression named"] = expressed(
                book, found, count, held["emotion"]
            )
            row |= named(found, count, who, theirs)
            found = book.symbols(numbers, count)
            row["91 people: expression named"] = expressed(book, found, count, emotions)
            yield row | {f"91, {k}": v for k, v in named(found, count, people, parts).items()}


# --- who performs -------------------------------------------------------------------


def performers(book: Codebook, known: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Title and performances (FINEST, FRAMES, 55) of the donor's, chosen in so many ways."""
    donors, emotions = known["donors"], known["emotion"]
    codes = torch.cat([book(part) for part in known["numbers"].split(4096)])
    wanted = donors[torch.cdist(book.centres, codes).argmin(1)]
    yield "nearest to the centre, whatever it shows", wanted
    own = torch.cat([book(part) for part in donors.split(4096)])
    apart = torch.cdist(book.centres, own)
    apart[book.named[:, None] != emotions] = torch.inf
    yield "whose own code is nearest, named alike", donors[apart.argmin(1)]
    for clear in CLARITIES:
        chosen = codebook_training.performing(wanted, book.named.long(), donors, emotions, clear)
        yield f"like the nearest, named alike, weight of clarity {clear:g}", donors[chosen]


@torch.no_grad()
def performed(opened: Callable[..., Run]) -> list[dict]:
    """Rows: a way of choosing who performs."""
    run = opened(codebook_weights="")
    run.ensure("strangers")
    known, count = run.stage("codebook").known, run.config.codebook_symbols
    title, by_seed = "expression read, F_u as trained", []
    for seed in SEEDS:
        run = opened(seed=seed)
        with torch.enable_grad():
            run.ensure("recognizer/none")
        numbers, book = of_run(run)[0], codebook.build(run).book
        test = run.parts["test"]
        truth, frames = run.labels("emotion")[test], run.config.frames
        said = run.logits("recognizer/none", "protected/none", "test")
        rows = [{"approach": "(originals)", title: accuracy(said, truth)}]
        symbols = book.symbols(numbers[test], count).cpu()
        each = torch.arange(count, device=book.centres.device)
        for how, performances in performers(book, known):
            book.performances.copy_(performances)
            done = book.performed(each, count, frames)
            drawn = reenactment.redrawn(done, run.config.size, run.config.size)
            drawn = drawn.mul(255).round().byte().cpu()
            said = run.logits("recognizer/none", drawn, np.arange(count))[symbols]
            rows.append({"approach": how, title: accuracy(said, truth)})
        by_seed.append(rows)
    return [{"the donor's clip": row.pop("approach")} | row for row in over_seeds(by_seed)]


TABLES = {"calibration_of_codes": calibrated, "codebook": learned, "performances": performed}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="twin")
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    given = parser.parse_args()
    common.pick_device([])

    def opened(**settings: object) -> Run:
        run = open_run(load_config(given.profile, settings), given.runs)
        for stage in ("clips", "split"):
            run.ensure(stage)
        dirs.add(run.dir)
        return run

    dirs: set[Path] = set()
    for name in given.only:
        write_table(list(TABLES[name](opened)), given.out, name)
        made = {folder.name: made_in(folder) for folder in sorted(dirs)}
        write_json(given.out / "symbols_manifest.json", made)


if __name__ == "__main__":
    main()
