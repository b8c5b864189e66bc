"""How hard is the twin? F_u's accuracy on generated clips against their difficulty.

``python data/calibrate.py 0 0.5 1 [--seeds 0,1,2] [--profile twin]`` renders the main set at each
difficulty, trains F_u on it and writes the test accuracies, by expression and by level, to
figures/<profile>/calibration.json and .md beside the rows already there. A GPU takes two minutes a
row.
"""

import argparse
import json

from ppfer import measure
from ppfer.config import REPO, load_config
from ppfer.run.run import Run
from ppfer.study import catalogue


def accuracies(run: Run) -> dict[str, measure.Rate]:
    """F_u's test accuracy over all clips, per expression and per level; trains what is missing."""
    for name in ("clips", "split", "protected/none", "recognizer/none"):
        run.make(name)
    test = run.parts["test"]
    said, truth = run.logits("recognizer/none", "protected/none", "test"), run.labels("emotion")
    rates = measure.per_class(said, truth[test], run.classes("emotion"))
    hits = said.argmax(-1).numpy() == truth[test]
    levels = measure.by_group(hits, run.table.level[test])
    return {"all": rates.pop("average")} | rates | levels


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("difficulties", nargs="+", type=float)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--profile", default="twin")
    options = parser.parse_args()
    folder = REPO / "figures" / options.profile
    path = folder / "calibration.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    for difficulty in options.difficulties:
        for seed in map(int, options.seeds.split(",")):
            asked = {"generate": True, "difficulty": difficulty, "seed": seed}
            run = catalogue.open_run(load_config(options.profile, asked))
            made = {"difficulty": difficulty, "seed": seed}
            steps = {"steps": run.config.recognition.steps}
            rows = [row for row in rows if not made.items() <= row.items()]
            rows.append(measure.json_rows([made | steps | accuracies(run)])[0])
            rows.sort(key=lambda row: (row["difficulty"], row["seed"]))
            measure.write_table(rows, folder, "calibration")


if __name__ == "__main__":
    main()
