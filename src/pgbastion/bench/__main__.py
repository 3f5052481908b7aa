"""Run one of the benches by name: ``python -m pgbastion.bench failover``."""

import importlib
import pkgutil
import sys

from pgbastion import bench


def names() -> list[str]:
    """Return the benches that there are: the modules of this package."""
    modules = pkgutil.iter_modules(bench.__path__)
    return [each.name for each in modules if not each.ispkg and each.name[0] != "_"]


def main() -> None:
    """Run the bench that the first argument names with the others."""
    known = names()
    if len(sys.argv) < 2 or sys.argv[1] not in known:
        sys.exit(f"usage: python -m pgbastion.bench {{{','.join(known)}}} ...")
    importlib.import_module(f"pgbastion.bench.{sys.argv[1]}").main(sys.argv[2:])


if __name__ == "__main__":
    main()
