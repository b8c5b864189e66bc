"""Rebuild the weights that re-enactment is shipped with.

    python data/export.py regressor    what reads faces, from painted people
    python data/export.py codebook     the symbols, from synthetic strangers who act CREMA-D's clips

Trains (profile twin: minutes on a GPU) and writes weights in half precision to
`data/<what>.safetensors` and, beside them, `<what>.json`: how good they are for people they have
not seen, and where and how long they were trained. Nothing but the repository is needed.
"""

import argparse
from pathlib import Path

from ppfer.base.files import write_json
from ppfer.base.weights import save_weights
from ppfer.config import PROFILES, REPO, load_config
from ppfer.run.names import RUNS
from ppfer.study import catalogue

KEPT = ("profile", "settings", "seconds", "device", "versions", "summary")


def main(arguments: list[str] | None = None) -> None:
    """Train, unless a finished run has these weights, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("regressor", "codebook"))
    parser.add_argument("--profile", default="twin", choices=PROFILES)
    parser.add_argument("--runs-dir", type=Path, default=RUNS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    config = load_config(args.profile, {f"{args.what}_weights": ""})
    run = catalogue.open_run(config, args.runs_dir)
    run.ensure(args.what)
    out = args.out or REPO / "data" / f"{args.what}.safetensors"
    path = save_weights(run.get(args.what), out, half=True)
    made = run.manifest(args.what)
    write_json(path.with_suffix(".json"), {key: made[key] for key in KEPT})
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {made['summary']}")


if __name__ == "__main__":
    main()
