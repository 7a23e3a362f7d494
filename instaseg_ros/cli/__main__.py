"""`python -m instaseg_ros.cli`: the `instaseg` command where it is not installed."""

import sys

from instaseg_ros.cli import main

sys.exit(main())
