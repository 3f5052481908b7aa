"""``python -m pgbastion.guard RUN_DIR``."""

import sys

from pgbastion.guard.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
