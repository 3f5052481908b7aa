"""What this program was made from."""

import platform
from importlib import import_module
from typing import Final

UNBUILT: Final = "unbuilt"


def versions() -> dict[str, str]:
    """Return version, commit and engine of the build, and the running Python.

    A tree that was never built has the version "unbuilt".
    """
    try:
        build = import_module("pgbastion._build")
    except ModuleNotFoundError:
        return {"pgbastion": UNBUILT, "python": platform.python_version()}
    return {
        "pgbastion": build.VERSION,
        "commit": build.COMMIT,
        "engine": build.ENGINE,
        "python": platform.python_version(),
    }
