"""What an engine wrote, made durable and sent, in the order of its system calls.

strace stops a thread at the entry and at the exit of a call, and writes its lines in
the order of these stops: a call that begins on a line after another's end began after
it.
"""

import re
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import pytest

CALLS: Final = "pwrite64,fdatasync,fsync,sendto"
BYTES_MAX: Final = 65_536
TRIAL_S: Final = 10.0

_BEGUN: Final = re.compile(
    r'(\d+) +(\w+)\((\d+)(?:, "((?:\\x[0-9a-f]{2})*)"(\.\.\.)?)?'
)
_RESUMED: Final = re.compile(r"(\d+) +<\.\.\. \w+ resumed>")
_UNFINISHED: Final = "<unfinished ...>"
_FAILED: Final = " = -1 "

_LOG_FRAME: Final = b"1mrf"
_LOG_FRAME_HEADER: Final = struct.Struct("<4sIQII")
_SEGMENT: Final = b"pgbraft\n"
_SEGMENT_HEADER_BYTES: Final = 40
_WIRE_HEADER_BYTES: Final = 4 + 16
_RAFT: Final = 1
_APPEND_RESPONSE, _VOTE_RESPONSE = 4, 6


def traced(path: Path) -> Sequence[str]:
    """Return the words before a program that trace it into ``path``.

    The program keeps its process id, and the tracer ends with it. Skips where there is
    no strace, or where it may not trace.
    """
    if shutil.which("strace") is None:
        pytest.skip("not run: the program strace is missing")
    words = ("strace", "-D", "-f", "-qq", "-xx", "-s", str(BYTES_MAX))
    tracing = (*words, "-e", f"trace={CALLS}", "-e", "signal=none", "-o", str(path))
    trial = subprocess.run(
        [*tracing, "true"],
        capture_output=True,
        text=True,
        check=False,
        timeout=TRIAL_S,
    )
    if trial.returncode != 0 or trial.stderr:
        pytest.skip(f"not run: tracing is refused: {trial.stderr.strip()}")
    return tracing


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An append that was accepted, or a vote that was given, as it went out."""

    vote: bool
    to: int
    term: int
    index: int


@dataclass(slots=True)
class Durable:
    """What the log on disk says."""

    term: int = 0
    vote: int = 0
    last_index: int = 0
    data: dict[int, bytes] = field(default_factory=dict)
    """What entries carry, by index."""

    def backs(self, answer: Answer) -> bool:
        """Tell whether the answer could be kept after a crash at this instant."""
        if answer.term > self.term:
            return False
        if answer.vote:
            return answer.term < self.term or answer.to == self.vote
        return answer.index <= self.last_index

    def take(self, records: bytes) -> None:
        """Let records count."""
        while records:
            kind, length = struct.unpack_from("<BI", records)
            body, records = records[5 : 5 + length], records[5 + length :]
            match kind:
                case 1:  # hard state: term, vote, commit
                    self.term, self.vote, _ = struct.unpack("<QQQ", body)
                case 2:  # entry
                    self.last_index, _, _, context = struct.unpack_from("<QQBI", body)
                    self.data[self.last_index] = body[21 + context + 4 :]
                case 3:  # base: all before it is in it
                    (self.last_index,) = struct.unpack_from("<Q", body)
                case _:
                    raise ValueError(kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """An answer, and what was on disk when it began to leave."""

    answer: Answer
    backed: bool
    newest: bytes
    """What the entry of the answer's index carries on disk."""


def answers(trace: Path) -> Iterator[Sent]:
    """Yield the answers of a trace in their order."""
    for durable, payload in _sendings(trace):
        answer = _answer(payload)
        if answer is not None:
            yield Sent(
                answer=answer,
                backed=durable.backs(answer),
                newest=durable.data.get(answer.index, b""),
            )


def durable_before_speaking(trace: Path) -> Durable:
    """Return what a process had put on disk by itself when it said its first word."""
    return next(durable for durable, _ in _sendings(trace))


def _sendings(trace: Path) -> Iterator[tuple[Durable, bytes]]:
    """Yield what is sent, and what is on disk when it begins to leave."""
    durable = Durable()
    written: dict[str, list[bytes]] = {}
    for stop in _stops(trace):
        match stop.call:
            case "pwrite64" if not stop.ends:
                written.setdefault(stop.file, []).append(_records(stop.payload))
            case "fdatasync" | "fsync" if stop.ends:
                for records in written.pop(stop.file, []):
                    durable.take(records)
            case "sendto" if not stop.ends:
                yield durable, stop.payload


class _Stop(NamedTuple):
    """A call begins, or has ended well."""

    call: str
    file: str
    payload: bytes
    ends: bool


def _stops(trace: Path) -> Iterator[_Stop]:
    unfinished: dict[str, _Stop] = {}
    for line in trace.read_text(encoding="ascii").splitlines():
        if (resumed := _RESUMED.match(line)) is not None:
            begin = unfinished.pop(resumed[1])
        elif (begun := _BEGUN.match(line)) is None:
            continue
        else:
            assert begun[5] is None, f"the trace is cut: {line[:200]}"
            payload = bytes.fromhex((begun[4] or "").replace("\\x", ""))
            begin = _Stop(begun[2], begun[3], payload, ends=False)
            yield begin
            unfinished[begun[1]] = begin
        if _UNFINISHED not in line and _FAILED not in line:
            yield begin._replace(ends=True)


def _records(written: bytes) -> bytes:
    """Return the records of one write of the log."""
    if written.startswith(_SEGMENT):
        written = written[_SEGMENT_HEADER_BYTES:]
    magic, length, *_ = _LOG_FRAME_HEADER.unpack_from(written)
    assert magic == _LOG_FRAME
    return written[_LOG_FRAME_HEADER.size :][:length]


def _answer(sent: bytes) -> Answer | None:
    """Return what a frame promises; None: it is no answer that promises anything."""
    length, frame = int.from_bytes(sent[:4], "little"), sent[_WIRE_HEADER_BYTES:]
    if len(frame) != length or not frame or frame[0] != _RAFT:
        return None
    fields = _numbers(frame[1:])
    kind, rejected = fields.get(1, 0), fields.get(10, 0)
    if rejected or kind not in {_APPEND_RESPONSE, _VOTE_RESPONSE}:
        return None
    return Answer(
        vote=kind == _VOTE_RESPONSE,
        to=fields.get(2, 0),
        term=fields.get(4, 0),
        index=fields.get(6, 0),
    )


def _numbers(message: bytes) -> dict[int, int]:
    """Read the numbers of a Protocol Buffers message by their field."""
    numbers: dict[int, int] = {}
    while message:
        key, message = _varint(message)
        number, message = _varint(message)
        if key & 7 == 2:
            message = message[number:]
        else:
            assert key & 7 == 0, "the library sends numbers and bytes only"
            numbers[key >> 3] = number
    return numbers


def _varint(message: bytes) -> tuple[int, bytes]:
    number = 0
    for at, byte in enumerate(message):
        number |= (byte & 127) << 7 * at
        if byte < 128:
            return number, message[at + 1 :]
    raise ValueError(message)
