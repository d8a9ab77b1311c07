"""`python -m agent`: the same command line as `mesh-agent`, for where no script is installed.

The demo starts its nodes with it. The one rule: nothing but the calls stands here.
"""

import sys

from agent.early_signals import outlive_harmless_ones

if __name__ == "__main__":
    outlive_harmless_ones(sys.argv[1:])
    from agent.cli.parser import main

    sys.exit(main())
