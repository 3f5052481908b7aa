"""Make what can be installed elsewhere: a wheel, one executable file, a Debian package.

The executable file is a shell script with an archive behind it: the interpreter that
built it, its standard library and the locked packages. At its first start it unpacks
itself into a directory named after its content, later it runs from there; so the
machine needs no Python, only its C library (as new as the builder's), sh, tar and gzip.
"""

import argparse
import compileall
import gzip
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from distribution.debian import make_package
from distribution.libraries import carry_libraries

ROOT: Final = Path(__file__).resolve().parent.parent
HEADER: Final = ROOT / "scripts" / "distribution" / "header.sh"
STDLIB_LEFT_OUT: Final = (
    "test",
    "tests",
    "idlelib",
    "idle_test",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "__pycache__",
    "config-*",
    "_tkinter*",
    "_gdbm*",
    "_dbm*",
    "readline*",
    "_test*",
    "xx*",
)


def main() -> None:
    """Make everything in ``dist``, and print what was made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    out = parser.parse_args().out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    wheel = make_wheel(out)
    with tempfile.TemporaryDirectory(prefix="pgb-dist-") as scratch:
        runtime = Path(scratch) / "runtime"
        make_runtime(runtime, wheel)
        program = make_program(runtime, out / "pgbastion")
        package = make_package(runtime, out, version=version())
    for made in (wheel, program, package):
        print(f"{made}  {made.stat().st_size / (1 << 20):.1f} MiB")


def version() -> str:
    """Return the version that the build carries."""
    from pgbastion._build import VERSION  # noqa: PLC0415 - written by make build

    return VERSION


def make_wheel(out: Path) -> Path:
    """Build the wheel of the package and its extension."""
    with tempfile.TemporaryDirectory(prefix="pgb-wheel-") as scratch:
        _run(
            *(str(Path(sys.executable).parent / "maturin"), "build", "--release"),
            *("--locked", "--quiet", "--out", scratch),
        )
        (made,) = Path(scratch).glob("*.whl")
        return Path(shutil.move(made, out / made.name))


def make_runtime(runtime: Path, wheel: Path) -> None:
    """Lay out the interpreter, its standard library and all packages."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = runtime / "lib" / name
    shutil.copytree(
        sysconfig.get_path("stdlib"),
        library,
        ignore=shutil.ignore_patterns(*STDLIB_LEFT_OUT),
    )
    program = runtime / "bin" / name
    program.parent.mkdir()
    shutil.copy2(Path(sys.executable).resolve(), program)
    packages = library / "site-packages"
    # Debian's interpreter looks for packages under a name of its own.
    (library / "dist-packages").symlink_to("site-packages")
    _run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"),
        *("--require-hashes", "--only-binary", ":all:", "--target", str(packages)),
        *("--requirement", str(ROOT / "requirements" / "runtime.txt")),
    )
    _run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"),
        *("--no-deps", "--no-index", "--target", str(packages), str(wheel)),
    )
    carry_libraries(runtime)
    compileall.compile_dir(str(library), quiet=2, ddir="", workers=os.cpu_count() or 1)


def make_program(runtime: Path, program: Path) -> Path:
    """Put the archive of ``runtime`` behind the header; name it by its content."""
    archive = program.with_suffix(".tar.gz")
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        tar.add(runtime, ".", filter=_as_root)
    content = hashlib.sha256(archive.read_bytes()).hexdigest()[:16]
    (interpreter,) = (runtime / "bin").glob("python3*")
    header = HEADER.read_text(encoding="ascii")
    header = header.replace("@CONTENT@", content)
    header = header.replace("@PYTHON@", interpreter.name)
    header = header.replace("@MACHINE@", platform.machine())
    header = header.replace("@LINES@", str(header.count("\n") + 1))
    with program.open("wb") as made:
        made.write(header.encode("ascii"))
        made.write(archive.read_bytes())
    archive.unlink()
    program.chmod(0o755)
    return program


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _run(*command: str) -> None:
    subprocess.run(command, check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
