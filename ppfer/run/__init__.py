"""Runs: stages and their results under keys, the training loop, and all that makes it fast.

A `stage` says what it stands on and what it leaves; `training` is a stage that trains; `run` makes,
finds and locks results; `loop` is the one training loop; `fast` holds every speed-up; `names` says
what a run's folder is called, and needs no torch.
"""
