"""What the benchmarks share: rows, ratios and where they are kept.

A row is ``{"what", "ours", "peer", "peer_name", "unit", "ratio", "device"}``; a ratio above 1 means
ours is better. Rows of other devices or other things already in the file stay.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator

# before torch, since it says how threads wait
import ppfer  # isort: skip  # noqa: F401
import torch

from ppfer import measure
from ppfer.config import REPO
from ppfer.run.run import Run

sys.path.append(str(REPO))
from figures import publish  # no part of the package

FOLDER = REPO / "figures" / "bench"


def pick_device(arguments: list[str]) -> torch.device:
    """``cpu`` or ``cuda`` from the command line; default: cuda if there. At most two threads on a
    CPU.
    """
    torch.set_num_threads(min(2, torch.get_num_threads()))
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(arguments[1] if len(arguments) > 1 else usual)


def complete(run: Run, *names: str) -> None:
    """Make stages and all they stand on, the main run's too, which `Run.ensure` wants there."""
    for name in dict.fromkeys(need for wanted in names for need in run.with_needs(wanted)):
        run.make(name, load=False)


def row(
    what: str,
    ours: float,
    peer: float,
    peer_name: str,
    unit: str,
    device: str,
    *,
    smaller: bool = False,
    **more: object,
) -> dict:
    """One comparison, printed; `smaller` when a smaller number is better (times, bytes). To nothing
    there is no ratio.
    """
    above, below = (peer, ours) if smaller else (ours, peer)
    made = {"what": what, "ours": round(ours, 3), "peer": round(peer, 3), "peer_name": peer_name}
    ratio = round(above / below, 2) if below else None
    made |= {"unit": unit, "ratio": ratio, "device": device, **more}
    line = f"{what:66} {ours:10,.2f} {unit:9} {peer_name:>34} {peer:10,.2f}  ratio {ratio}"
    print(line, flush=True)
    return made


def peers(device: torch.device) -> dict[str, bool]:
    """Name → whether convolutions may use TF32, as PyTorch lets them on a GPU unless told
    otherwise.
    """
    return {"fp32": False} | ({"fp32, TF32 convolutions": True} if device.type == "cuda" else {})


@contextlib.contextmanager
def plain(tf32: bool) -> Iterator[None]:
    """Compute as published code does, in float32 or TF32; networks that nobody prepared
    (`ppfer.run.fast`) have PyTorch's own layers.
    """
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, tf32
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def keep(rows: list[dict], name: str) -> None:
    """Write the rows to figures/bench/<name>.json in place of older ones of the same things and
    device, and the page they make.
    """
    path = FOLDER / f"{name}.json"
    new = {(r["device"], r["what"]) for r in rows}
    old = json.loads(path.read_text()) if path.exists() else []
    kept = [r for r in old if (r["device"], r["what"]) not in new]
    path.parent.mkdir(parents=True, exist_ok=True)
    every = kept + [r | {"torch": torch.__version__} for r in rows]
    path.write_text(json.dumps(every, indent=1, ensure_ascii=False) + "\n")
    path.with_suffix(".md").write_text(measure.markdown(page(every)))
    publish.fill_pages()


def page(rows: list[dict]) -> list[dict]:
    """A row per thing and device, all that it was compared with side by side."""
    lines: dict[tuple[str, str], dict] = {}
    for r in sorted(rows, key=lambda r: (r["device"].startswith("CPU"), r["device"], r["what"])):
        digits = 2 if r["unit"] == "ms" else 0
        line = lines.setdefault(
            (r["device"], r["what"]),
            {
                "what": r["what"],
                "device": r["device"].replace("NVIDIA ", "").replace(" HBM3", ""),
                "ours": f"{r['ours']:,.{digits}f} {r['unit']}",
                "others, and how much better ours is": [],
            },
        )
        line["others, and how much better ours is"].append(
            f"{r['peer_name']}: {r['peer']:,.{digits}f}"
            + (f" ({r['ratio']:.2f})" if r["ratio"] is not None else "")
        )
    return [
        line | {key: "; ".join(value) for key, value in line.items() if isinstance(value, list)}
        for line in lines.values()
    ]
