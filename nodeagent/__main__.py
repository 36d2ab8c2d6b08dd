"""`python -m nodeagent`: the same as the console script."""

import sys

from nodeagent.cli import main

if __name__ == "__main__":
    sys.exit(main())
