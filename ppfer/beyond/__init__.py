"""Beyond the paper: what survives an attacker who learns.

`live` trains Algorithm 1 against controllers that keep learning. Re-enactment lets through a face's
movements and nothing else: `crowd` draws synthetic strangers, `regressor` learns from them to read
movements off a face, `reenactment` draws them on one donor.
"""

from ppfer.beyond import live, reenactment, regressor

PROTECTORS = (live.PROTECTOR, reenactment.PROTECTOR, reenactment.NEUTRAL)

STAGES = (live.Live, regressor.Regression)
