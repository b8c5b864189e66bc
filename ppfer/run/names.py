"""Folders of runs: what a run is called, so that two never share one, and which runs there are."""

import contextlib
from pathlib import Path

from ppfer.base.errors import PpferError
from ppfer.base.files import digest, home, read_json, write_json
from ppfer.config import REPO, Config, dotted, load_config, to_dict

RUNS = REPO / "runs"  # wherever the command is given
DATA = ("data", "wild")  # settings that name a folder of clips
CLEANED = "cleaned.json"  # the manifest of a stage whose clips were removed
OF_A_STAGE = ("seconds", "peak_gib", "seed", "device", "versions", "key")  # kept of a manifest
OWN_PICTURES = "own_pictures"  # beside the runs: what an explorer saved of somebody's own file
ASIDE = "earlier"  # in a run's folder: finished results that its settings have left behind


def data_path(path: str) -> Path:
    """A data folder of a config, absolute: as given if it exists, else in the repository."""
    given = home(path)
    return given.absolute() if given.is_absolute() or given.exists() else REPO / given


def synthetic(*folders: str | Path) -> bool:
    """Whether data folders hold clips that `ppfer twin` drew, of nobody."""
    places = [data_path(str(folder)) for folder in folders]  # wild clips lie in a folder of theirs
    return all(any((at / "twin.json").exists() for at in (f, f.parent)) for f in places)


def differences(config: Config) -> dict[str, object]:
    """What a config has other than its profile, dotted names to values; the name is left out."""
    flat, own = dotted(to_dict(config)), dotted(to_dict(load_config(config.profile)))
    changed = {key: value for key, value in flat.items() if value != own[key] and key != "name"}
    for key in changed.keys() & DATA:
        changed[key] = str(data_path(str(changed[key])).resolve())
    return changed


def run_name(config: Config) -> str:
    """Folder name of a run: ``config.name``, or the profile, the data folder's name and the seed
    where they are not the profile's, and a short digest of everything else that is not; a
    `PpferError` for a name that is no plain folder name.
    """
    if config.name:
        if Path(config.name).name != config.name or config.name.startswith("."):
            raise PpferError(f"a run's name is a plain folder name, not '{config.name}'")
        return config.name
    changed = differences(config)
    parts = [config.profile]
    if "data" in changed:
        parts.append(Path(str(changed["data"])).name)
    if seed := changed.pop("seed", 0):
        parts.append(f"seed{seed}")
    return "-".join(parts + [digest(changed)[:6]] * bool(changed))


def run_json(folder: Path) -> dict:
    """What a run says of itself, {"profile", "differs"}; a `PpferError` where it cannot be read."""
    about = read_json(folder / "run.json")
    if list(map(type, map(about.get, ("profile", "differs")))) != [str, dict]:
        what = "cannot be read" if (folder / "run.json").exists() else "is not there"
        raise PpferError(f"{folder / 'run.json'} {what}, so that nobody knows what this run is")
    return about


def data_folders(about: dict) -> set[str]:
    """Folders whose clips a run has ever held, absolute, by its ``run.json``."""
    usual, differs = to_dict(load_config(about["profile"])), about["differs"]
    now = usual | differs
    own = [] if now["generate"] else [str(data_path(str(now[k])).resolve()) for k in DATA]
    return {*(about.get("held") or ()), *own}


def introduce(folder: Path, config: Config) -> None:
    """Say in a run's folder what it is, and whose clips it has ever held."""
    about = {"profile": config.profile, "differs": differences(config)}
    folders = data_folders(about)
    with contextlib.suppress(PpferError):  # there was no run yet
        folders |= data_folders(run_json(folder))
    write_json(folder / "run.json", about | {"held": sorted(folders)})


def key_of_lost_data(folder: Path, settings: dict) -> str:
    """The key of clips whose files are not there any more, as they were when they were read into a
    stage's folder; "" if that was with other settings. What was trained on them is still of use.
    """
    about = read_json(folder / "manifest.json") or read_json(folder / CLEANED)
    same = settings.items() <= about.get("settings", {}).items()
    return about["key"] if about and same else ""


def config_of(folder: Path) -> Config:
    """The config of a run, from its folder; raises as `run_json` does."""
    about = run_json(folder)
    config = load_config(about["profile"], about["differs"])
    if run_name(config) == folder.name:
        return config
    return load_config(about["profile"], {**about["differs"], "name": folder.name})


def known_runs(runs_dir: Path) -> list[dict]:
    """A row per run in a folder: name, what tells it from its profile, finished stages, size."""
    rows = []
    for path in sorted(runs_dir.glob("*/run.json")):
        folder, about, size = path.parent, {"profile": "?"}, 0
        differs = "its run.json cannot be read"
        with contextlib.suppress(PpferError):
            about = run_json(folder)
            differs = ", ".join(f"{key}={value}" for key, value in about["differs"].items()) or "–"
        for file in folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # a run at work writes and removes
                size += file.stat().st_size * file.is_file()
        row = {"run": folder.name, "profile": about["profile"], "differs": differs}
        rows.append(row | {"finished stages": len(_finished(folder)), "MB": round(size / 1e6)})
    return rows


def _finished(folder: Path) -> list[dict]:
    """Manifests of a run's finished stages, without those of stores and what is left behind."""
    paths = [p for p in sorted(folder.rglob("manifest.json")) if folder / ASIDE not in p.parents]
    return [manifest for manifest in map(read_json, paths) if "stage" in manifest]


def made_in(folder: Path) -> dict[str, dict]:
    """Stage → what its manifest says of its making, for all that a run has finished."""
    made = {}
    for manifest in _finished(folder):
        summary = manifest.get("summary", {})
        made[manifest["stage"]] = (
            {k: summary[k] for k in ("steps", "best_step", "loss", "sha256") if k in summary}
            | {"training_seconds": summary.get("seconds", 0)}
            | {key: manifest[key] for key in OF_A_STAGE if key in manifest}
        )
    return made
