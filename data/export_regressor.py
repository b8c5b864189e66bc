"""Rebuild `data/regressor.safetensors`, the weights that re-enactment reads faces with.

    python data/export_regressor.py

Draws synthetic people, trains the regressor on them (profile twin: minutes on a GPU), and writes
its weights in half precision and, beside them, `regressor.json`: how well it reads people it has
not seen, and where and how long it was trained. Nothing but the repository is needed.
"""

import argparse
from pathlib import Path

from ppfer.base.files import write_json
from ppfer.base.weights import save_weights
from ppfer.config import PROFILES, REPO, load_config
from ppfer.run.names import RUNS
from ppfer.study import catalogue

WEIGHTS = REPO / "data" / "regressor.safetensors"


def main(arguments: list[str] | None = None) -> None:
    """Train, unless a finished run has these weights, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="twin", choices=PROFILES)
    parser.add_argument("--runs-dir", type=Path, default=RUNS)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    args = parser.parse_args(arguments)
    run = catalogue.open_run(load_config(args.profile, {"regressor_weights": ""}), args.runs_dir)
    path = save_weights(run.make("regressor"), args.out, half=True)
    made = run.manifest("regressor")
    kept = ("profile", "settings", "seconds", "device", "versions", "summary")
    write_json(path.with_suffix(".json"), {key: made[key] for key in kept})
    best = made["summary"]["best"]
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {best}")


if __name__ == "__main__":
    main()
