"""`python -m instaseg_ros.cli`: the `instaseg` command where it is not installed."""

import sys

try:
    from instaseg_ros.cli import main

    sys.exit(main())
except KeyboardInterrupt:  # before `main` could take it
    sys.exit(130)
