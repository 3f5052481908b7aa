"""The inputs that fuzzing begins with, and those that once broke a reader."""

from pathlib import Path

import pytest

from pgbastion.proxy import wire
from support.fuzzed import READERS, first_packet

CORPUS = Path(__file__).resolve().parents[1] / "fuzz" / "corpus"
KEPT = sorted(path for path in CORPUS.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "path", KEPT, ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_every_kept_input_is_read(path: Path) -> None:
    READERS[path.parent.name](path.read_bytes())


def test_every_reader_has_inputs_to_begin_with() -> None:
    assert {path.parent.name for path in KEPT} == set(READERS)


def test_a_reader_that_decides_too_early_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = wire.parse_first_packet

    def hasty(data: bytes) -> wire.FirstPacket:
        return whole(data) if len(data) > 7 else wire.Malformed("It is short.")

    monkeypatch.setattr(wire, "parse_first_packet", hasty)

    with pytest.raises(AssertionError):
        first_packet(wire.SSL_REQUEST)
