"""Rebuild `data/codebook.safetensors`, the symbols that re-enactment by a codebook shows.

    python data/export_codebook.py

Draws synthetic strangers who act CREMA-D's clips, reads them with the shipped regressor, trains the
codebook on what was read (profile twin: four minutes on a GPU), and writes its weights in half
precision and, beside them, `codebook.json`: how well it names the expressions of strangers it has
not seen, and where and how long it was trained. Nothing but the repository is needed.
"""

import argparse
from pathlib import Path

from ppfer.base.files import write_json
from ppfer.base.weights import save_weights
from ppfer.config import PROFILES, REPO, load_config
from ppfer.run.names import RUNS
from ppfer.study import catalogue

WEIGHTS = REPO / "data" / "codebook.safetensors"


def main(arguments: list[str] | None = None) -> None:
    """Train, unless a finished run has these weights, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="twin", choices=PROFILES)
    parser.add_argument("--runs-dir", type=Path, default=RUNS)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    args = parser.parse_args(arguments)
    run = catalogue.open_run(load_config(args.profile, {"codebook_weights": ""}), args.runs_dir)
    run.ensure("codebook")
    path = save_weights(run.get("codebook"), args.out, half=True)
    made = run.manifest("codebook")
    kept = ("profile", "settings", "seconds", "device", "versions", "summary")
    write_json(path.with_suffix(".json"), {key: made[key] for key in kept})
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {made['summary']}")


if __name__ == "__main__":
    main()
