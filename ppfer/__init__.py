"""PPFER: facial expression recognition from video with controlled privacy preservation and feature
compensation.

Import the modules, not names from here: ``from ppfer import wavelets``; nothing heavy is imported
until asked for.
"""

import os

__version__ = "0.1.0"

# OpenMP's threads soon wait asleep: those that go on spinning take the time of whatever else the
# machine does, and those that sleep at once are woken too often (``figures/bench/README.md``).
# OpenMP looks once, as PyTorch is loaded.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "500"}
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ |= WAITING
