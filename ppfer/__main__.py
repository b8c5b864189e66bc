"""``python -m ppfer``: the command line; also what ``accelerate launch -m ppfer run
--no-notebooks`` starts.
"""

from ppfer.cli import main

raise SystemExit(main())
