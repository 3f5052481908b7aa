"""What this program was made from."""

import platform
from importlib import import_module


def versions() -> dict[str, str]:
    """Return version, commit and engine of the build, and the running Python."""
    try:
        build = import_module("pgbastion._build")
    except ModuleNotFoundError:
        # A source tree that was never built.
        return {"pgbastion": "unbuilt", "python": platform.python_version()}
    return {
        "pgbastion": build.VERSION,
        "commit": build.COMMIT,
        "engine": build.ENGINE,
        "python": platform.python_version(),
    }
