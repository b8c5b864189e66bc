"""Algorithm 1 trained long, as pictures: five people after more and more steps, and how many are
named by the frozen validator, which is the opponent in training. Notebook 04 shows the twin's.

    python figures/film.py [--profile twin] [--runs runs]     writes figures/PROFILE/algorithm1.*
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import torch
from torchmetrics.functional.image import structural_similarity_index_measure as ssim

from ppfer import measure
from ppfer.config import REPO, load_config
from ppfer.method.networks import protected_by
from ppfer.run.loop import fit
from ppfer.run.run import Run
from ppfer.run.training import trainable
from ppfer.show import plots
from ppfer.study import catalogue

LOOKS, PEOPLE = (0, 4, 8, 20, 50), 5  # steps that are shown, besides the last


def film(run: Run) -> tuple[list[dict], list[torch.Tensor]]:
    """Rows of all test clips' middle frames, the originals first: how many are named, how far G is
    from V in grey levels, SSIM; and to each the frames (n, 3, H, W) of a few people.
    """
    stage, test = run.stage("privacy/long"), run.parts["test"]
    original = run.tensor("clips")[torch.as_tensor(test)]
    middle = original.shape[1] // 2
    original = original[:, middle : middle + 1]  # (clips, 1, 3, H, W)
    actors, few = run.labels("actor")[test], list(range(0, len(test), len(test) // PEOPLE))[:PEOPLE]
    rows, pictures = [], []

    def look(title: str, frames: torch.Tensor) -> None:
        named = measure.hits(run.logits("identity", frames)[:, 0], actors)
        new, old = (x[:, 0].float().cpu() / 255 for x in (frames, original))
        like = float(ssim(new, old, data_range=1.0))
        grey = 255 * float((new - old).abs().mean())
        row = {"frames": title, "named by the frozen validator": measure.rate(named)}
        rows.append(row | {"grey levels from V": grey, "SSIM to V": like})
        pictures.append(new[few])

    torch.manual_seed(stage.seed)
    net = trainable(stage.start(), run.device)
    step, wanted = 0, (*LOOKS, stage.train.steps)

    def evaluate() -> dict[str, float]:
        nonlocal step
        step += 2  # LOOKS are even
        if step in wanted:
            look(f"step {step:,}", protected_by(run, net, original))
        return {}

    look("original (V)", original)
    look("step 0", protected_by(run, net.eval(), original))
    train = dataclasses.replace(stage.train, evals=stage.train.steps // 2)
    objective = stage.objective(net).to(run.device)
    with tempfile.TemporaryDirectory() as out:
        how = {"name": "Algorithm 1", "evaluate": evaluate, "precision": run.config.precision}
        how["score"] = lambda measures: [0.0]  # else each look's weights are the best, and written
        fit(objective, net, stage.batches(), train, Path(out), **how)
    return rows, pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="twin")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    args = parser.parse_args()
    run = catalogue.open_run(load_config(args.profile), args.runs)
    for stage in ("clips", "split", "identity", "pretrain"):
        run.make(stage, load=False)
    rows, pictures = film(run)
    folder = REPO / "figures" / args.profile
    measure.write_table(rows, folder, "algorithm1")
    titles = [
        f"{frames}: {named.k:,} of {named.n:,} named"
        for frames, named, *_ in map(dict.values, rows)
    ]
    picture = plots.image_grid(list(zip(*pictures)), (), titles, cell=1.3)
    picture.save(folder / "algorithm1.jpg", quality=75, optimize=True)


if __name__ == "__main__":
    main()
