"""Beyond the paper: privacy that holds against whoever retrains.

`live` trains Algorithm 1 against controllers that keep learning.
"""
