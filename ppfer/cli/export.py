"""``ppfer export``: a trained protector leaves the run, in one file."""

import argparse

from ppfer.base.device import versions
from ppfer.base.errors import PpferError
from ppfer.cli import onnx_file
from ppfer.cli.caveats import at_length, closed_set, in_short, leakage_rows
from ppfer.cli.protect import built_in, run_of
from ppfer.config import REPO
from ppfer.run.exported import of_networks, write_export
from ppfer.video.scene import COVERS

CARD = """# {title}

{what_ran}; heads of {size} × {size} pixels. {closed_set}

{leakage_text}

In the file are weights and settings, no picture and no name of anybody. Networks that were trained
on people may remember them all the same.
"""


def export(args: argparse.Namespace) -> None:
    """Write a protector of a run, with what it leaked, to one file."""
    run, name = run_of(args), args.approach
    as_onnx = args.out.suffix == onnx_file.SUFFIX
    if args.out.exists():
        raise PpferError(f"{args.out} is there; give another name, or remove it")
    if as_onnx and name == onnx_file.REGRESSOR:
        card = (REPO / "data" / "regressor.md").read_text("utf-8")
        apart = onnx_file.write_onnx(*onnx_file.of_regressor(run), args.out, {"card": card})
        print(f"{args.out} reads 55 numbers off frames, within {apart:.1g} of PyTorch's")
        return
    protector = None if name in COVERS else run.protector(name)
    if protector is None or protector.for_anybody or not protector.needs:
        raise PpferError(f"{name} needs no export: ppfer protect has it without a trained run")
    built = built_in(run, protector, args)
    said = {
        "title": protector.title,
        "what_ran": protector.description(run),
        "closed_set": closed_set(run, named=False),
        "leakage": leakage_rows(run, name),
        "leakage_text": at_length(protector, run),
        "caveat": in_short(protector, run),
    }
    card = CARD.format(size=protector.size or run.config.size, **said)
    said |= {"card": card, "versions": versions()}
    if as_onnx:
        of_networks(run, name)
        net = onnx_file.of_protector(run, name, built)
        apart = onnx_file.write_onnx(*net, args.out, said)
        print(f"{args.out} holds {protector.title} as ONNX, within {apart:.1g} of PyTorch's pixels")
    else:
        write_export(run, name, args.out, said)
        print(f"{args.out} holds {protector.title}; ppfer protect --weights takes it anywhere")
    print(said["caveat"])
