"""Write src/pgbastion/_build.py: version, commit and engine of this build.

The file is left alone when nothing changed, so that nothing is built again for it.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Write the file for the version given as the only argument, or the project's."""
    asked = sys.argv[1] if len(sys.argv) > 1 else ""
    target = ROOT / "src" / "pgbastion" / "_build.py"
    text = "\n".join(
        (
            '"""What this build was made from; written by make build."""',
            "",
            f'VERSION = "{asked or project_version()}"',
            f'COMMIT = "{commit()}"',
            f'ENGINE = "{engine()}"',
            "",
        )
    )
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.write_text(text, encoding="utf-8")


def project_version() -> str:
    """Return the version that pyproject.toml states."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def commit() -> str:
    """Return the short commit of the work tree, with "+" after local changes."""
    described = subprocess.run(
        ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


def engine() -> str:
    """Return name and version of the consensus library that cargo has locked."""
    for lock in sorted((ROOT / "native").glob("**/Cargo.lock")):
        with lock.open("rb") as file:
            packages = tomllib.load(file)["package"]
        for package in packages:
            if package["name"] == "raft":
                return f"raft {package['version']}"
    return "none"


if __name__ == "__main__":
    main()
