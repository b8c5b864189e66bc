"""PPFER: facial expression recognition from video with controlled privacy preservation and feature
compensation.

Import the modules, not names from here: ``from ppfer import wavelets``; nothing heavy is imported
until asked for.
"""

import os

__version__ = "0.1.0"

# OpenMP's threads wait asleep. Those that spin take the time of whatever else the machine does, and
# a step beside one busy process takes three times as long. OpenMP looks once, as PyTorch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
