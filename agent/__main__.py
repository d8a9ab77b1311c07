"""`python -m agent`: the same command line as `mesh-agent`, for where no script is installed.

The demo starts its nodes with it. The one rule: nothing but the call stands here.
"""

import sys

from agent.cli.parser import main

if __name__ == "__main__":
    sys.exit(main())
