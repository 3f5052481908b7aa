"""``pgbastion lab``: three real nodes that commands cut, kill and heal."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = str(Path(sys.executable).with_name("pgbastion"))
LAB_S = 200

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        not os.environ.get("PGBASTION_TEST_FULL"), reason="of the whole matrix"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]


def test_words_of_the_laboratory_do_what_they_say() -> None:
    words = ["nonsense", "cut n9", "cut n2", "heal n2", "explain n1"]
    words += ["run n1 list", "fault postmaster n1", "end", "quit"]

    done = subprocess.run(
        [PROGRAM, "lab"],
        input="\n".join(words),
        capture_output=True,
        text=True,
        timeout=LAB_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "fault KIND NODE" in done.stdout
    assert "not understood: cut n9; help has the words" in done.stdout
    assert "(as seen by n1; Raft leader: n1)" in done.stdout
    assert "ended: postmaster n1" in done.stdout
