"""``ppfer cost``: what the stages of a config take."""

from __future__ import annotations

import argparse

from ppfer.cli.settings import config_of
from ppfer.study.cost import report


def cost(args: argparse.Namespace) -> None:
    """Say what each stage takes."""
    print(report(config_of(args)))
