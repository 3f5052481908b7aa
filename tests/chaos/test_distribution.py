"""What `make dist` makes: each of the three starts a node where no Python is."""

import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from support.bare_root import bare_root

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "127.38.9.1"
WITNESS = f"""\
node: {{name: w, address: {ADDRESS}}}
raft: {{data_dir: DIRECTORY/raft, bootstrap: true, tls_enabled: false}}
cluster: {{secret_file: DIRECTORY/secret}}
proxy: {{bind_address: {ADDRESS}}}
api: {{bind_address: {ADDRESS}}}
metrics: {{bind_address: {ADDRESS}}}
"""
STARTED_S = 60
ENDED_S = 30


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    script = ROOT / "scripts" / "make_dist.py"
    subprocess.run([sys.executable, script, "--out", out], check=True, timeout=600)
    return out


@contextmanager
def running(*command: str, log: Path) -> Iterator[dict[str, object]]:
    """Run a node until it has answered; it has to end when it is told to."""
    with log.open("wb") as said:
        node = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        yield _role(node, log)
        node.terminate()
        assert node.wait(ENDED_S) == 0
    finally:
        if node.poll() is None:
            node.kill()
            node.wait()


def _role(node: subprocess.Popen[bytes], log: Path) -> dict[str, object]:
    """Wait until the node has its role, and return its health."""
    deadline = time.monotonic() + STARTED_S
    while True:
        assert node.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            answer = httpx.get(f"http://{ADDRESS}:8080/health", trust_env=False)
        except httpx.TransportError:
            answer = None
        if answer is not None and answer.json()["role"] != "starting":
            health: dict[str, object] = answer.json()
            return health
        time.sleep(0.2)


def files_in(root: Path) -> set[Path]:
    """Return all files below a root, but for the kernel's own."""
    tops = [top for top in root.iterdir() if top.name != "proc"]
    return {path for top in tops for path in (top, *top.rglob("*"))}


def configured(root: Path, directory: str = "/etc") -> str:
    """Write a witness's file below ``root``; return its name as seen from there."""
    name = f"{directory}/w.yaml"
    target = root / name.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(WITNESS.replace("DIRECTORY", directory))
    return name


def test_the_file_runs_where_no_python_is(made: Path, tmp_path: Path) -> None:
    with bare_root(tmp_path / "root") as root:
        program = root / "usr" / "local" / "bin" / "pgbastion"
        program.parent.mkdir(parents=True)
        program.write_bytes((made / "pgbastion").read_bytes())
        program.chmod(0o755)
        command = ["chroot", str(root), "/usr/local/bin/pgbastion", "start"]
        name = configured(root)

        with running(*command, "--config", name, log=tmp_path / "log") as health:
            assert health["role"] == "witness"
            page = httpx.get(f"http://{ADDRESS}:8080/ui", trust_env=False)
            assert "pgbastion" in page.text


def test_the_package_installs_runs_and_goes_cleanly(made: Path, tmp_path: Path) -> None:
    (package,) = made.glob("*.deb")
    with bare_root(tmp_path / "root") as root:
        before = files_in(root)

        def dpkg(*words: str) -> None:
            # Its C library is there, but no package that says so.
            subprocess.run(
                ["dpkg", f"--root={root}", "--force-depends", *words], check=True
            )

        dpkg("--install", str(package))
        unit = (root / "lib/systemd/system/pgbastion.service").read_text()
        assert "ExecStart=/usr/bin/pgbastion start" in unit
        command = ["chroot", str(root), "/usr/bin/pgbastion", "start"]
        name = configured(root, "/var/lib/pgbastion")
        with running(*command, "--config", name, log=tmp_path / "log") as health:
            assert health["node"] == "w"
        dpkg("--purge", "pgbastion")

        left = files_in(root) - before
        # The Raft log, the secret and the file of the node are the user's.
        theirs = [root / "var/lib/dpkg", root / "var/lib/pgbastion", root / "run"]
        assert not [p for p in left if not any(p.is_relative_to(t) for t in theirs)]
        assert (root / "var/lib/pgbastion/raft").is_dir()


def test_the_wheel_installs_into_an_environment(made: Path, tmp_path: Path) -> None:
    (wheel,) = made.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True, symlinks=True)
    python = str(tmp_path / "env" / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet"]
    locked = ROOT / "requirements" / "runtime.txt"
    subprocess.run([*pip, "--require-hashes", "--requirement", locked], check=True)
    subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True)
    name = configured(Path("/"), str(tmp_path))

    program = str(tmp_path / "env" / "bin" / "pgbastion")
    command = (program, "start", "--config", name)
    with running(*command, log=tmp_path / "log") as health:
        assert health["role"] == "witness"
