"""`python -m critique_rl.cli`, for launchers that start a module, such as `accelerate launch`."""

import sys

from critique_rl.cli.commands import main

sys.exit(main())
