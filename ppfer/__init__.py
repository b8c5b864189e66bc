"""PPFER: facial expression recognition from video with controlled privacy preservation and feature
compensation.

Import the modules, not names from here: ``from ppfer import wavelets``; nothing heavy is imported
until asked for.
"""

__version__ = "0.1.0"
