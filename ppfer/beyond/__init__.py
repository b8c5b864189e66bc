"""Beyond the paper: what survives an attacker who learns.

Re-enactment lets through a face's movements and nothing else: `crowd` draws synthetic strangers,
`regressor` learns from them to read movements off a face, `reenactment` draws them on one donor.
"""

from ppfer.beyond import reenactment, regressor

PROTECTORS = (reenactment.PROTECTOR,)

STAGES = (regressor.Regression,)
