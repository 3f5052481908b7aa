"""Refuse modules over 500 lines and functions over 60: split them by concern."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDERS: Final = ("src", "tests", "scripts")
MODULE_LINES_MAX: Final = 500
FUNCTION_LINES_MAX: Final = 60


def main() -> int:
    """Print every violation; return 1 when there is one."""
    faults = [
        fault
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for fault in faults_of(path)
    ]
    for fault in faults:
        print(fault)
    return 1 if faults else 0


def faults_of(path: Path) -> Iterator[str]:
    """Yield what is too long in ``path``."""
    text = path.read_text(encoding="utf-8")
    place = path.relative_to(ROOT)
    lines = text.count("\n")
    if lines > MODULE_LINES_MAX:
        yield f"{place}: {lines} lines, at most {MODULE_LINES_MAX}"
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > FUNCTION_LINES_MAX:
            yield (
                f"{place}:{node.lineno}: {node.name} has {length} lines, at most "
                f"{FUNCTION_LINES_MAX}"
            )


if __name__ == "__main__":
    sys.exit(main())
