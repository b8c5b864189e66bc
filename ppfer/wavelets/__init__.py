"""Frames to a low and a high band and back: PyWavelets builds the matrices, torch multiplies."""

from ppfer.wavelets.layer import AXES, NAMES, BandSplit, along
from ppfer.wavelets.matrices import analysis_matrix, low_pass, synthesis_matrix

__all__ = ["AXES", "NAMES", "BandSplit", "along"]
__all__ += ["analysis_matrix", "low_pass", "synthesis_matrix"]
