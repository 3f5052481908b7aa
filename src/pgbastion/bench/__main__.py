"""Run one of the benches by name: ``python -m pgbastion.bench failover``."""

import importlib
import pkgutil
import signal
import sys
from types import FrameType

from pgbastion import bench


def names() -> list[str]:
    """Return the benches that there are: the modules of this package."""
    modules = pkgutil.iter_modules(bench.__path__)
    shown = [each.name for each in modules if not each.ispkg and each.name[0] != "_"]
    return [name.replace("_", "-") for name in shown]


def main() -> None:
    """Run the bench that the first argument names with the others."""
    known = names()
    if len(sys.argv) < 2 or sys.argv[1] not in known:
        sys.exit(f"usage: python -m pgbastion.bench {{{','.join(known)}}} ...")
    signal.signal(signal.SIGTERM, _end)
    module = sys.argv[1].replace("-", "_")
    importlib.import_module(f"pgbastion.bench.{module}").main(sys.argv[2:])


def _end(_number: int, _frame: FrameType | None) -> None:
    # An exception, so that a laboratory clears up on its way out.
    sys.exit("ended by a signal")


if __name__ == "__main__":
    main()
