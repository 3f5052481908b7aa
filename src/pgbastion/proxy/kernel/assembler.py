"""A small assembler for BPF: one method an instruction, labels for jumps.

Source: Linux documentation, "BPF Instruction Set Architecture" (RFC 9669).
"""

import struct
from enum import IntEnum
from typing import Final

from pgbastion.errors import invariant

_INSTRUCTION: Final = struct.Struct("<BBhi")
_PSEUDO_MAP_FD: Final = 1
_FETCH_ADD: Final = 0x01


class Register(IntEnum):
    """R0 has results, R1-R5 arguments, R6-R9 outlive calls, R10 is the frame."""

    R0 = 0
    R1 = 1
    R2 = 2
    R3 = 3
    R4 = 4
    R5 = 5
    R6 = 6
    R7 = 7
    R8 = 8
    R9 = 9
    R10 = 10


class Helper(IntEnum):
    """Functions of the kernel that a program may call; linux/bpf.h."""

    MAP_LOOKUP_ELEM = 1
    SKB_LOAD_BYTES = 26
    GET_SOCKET_COOKIE = 46
    SKB_ADJUST_ROOM = 50
    SK_REDIRECT_HASH = 72
    KTIME_GET_BOOT_NS = 125
    RINGBUF_OUTPUT = 130


class Assembler:
    """Collects instructions; `finish` resolves the labels."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int]] = []
        self._labels: dict[str, int] = {}
        self._jumps: dict[int, str] = {}

    def label(self, name: str) -> None:
        """Name the place of the next instruction."""
        self._labels[name] = len(self._code)

    def move(self, to: Register, source: Register) -> None:
        """``to = source``."""
        self._put(0xBF, to, source)

    def set(self, to: Register, value: int) -> None:
        """``to = value`` (32 bits, sign-extended)."""
        self._put(0xB7, to, immediate=value)

    def add(self, to: Register, source: Register) -> None:
        """``to += source``."""
        self._put(0x0F, to, source)

    def add_value(self, to: Register, value: int) -> None:
        """``to += value``."""
        self._put(0x07, to, immediate=value)

    def add32(self, to: Register, source: Register) -> None:
        """``to = (u32)(to + source)``."""
        self._put(0x0C, to, source)

    def subtract32(self, to: Register, source: Register) -> None:
        """``to = (u32)(to - source)``."""
        self._put(0x1C, to, source)

    def negate(self, to: Register) -> None:
        """``to = -to``."""
        self._put(0x87, to)

    def load32(self, to: Register, base: Register, offset: int) -> None:
        """``to = *(u32 *)(base + offset)``."""
        self._put(0x61, to, base, offset)

    def load64(self, to: Register, base: Register, offset: int) -> None:
        """``to = *(u64 *)(base + offset)``."""
        self._put(0x79, to, base, offset)

    def store32(self, base: Register, offset: int, source: Register) -> None:
        """``*(u32 *)(base + offset) = source``."""
        self._put(0x63, base, source, offset)

    def store64(self, base: Register, offset: int, source: Register) -> None:
        """``*(u64 *)(base + offset) = source``."""
        self._put(0x7B, base, source, offset)

    def fetch_add64(self, base: Register, offset: int, register: Register) -> None:
        """Add ``register`` to ``*(u64 *)(base + offset)``, whose old value it gets.

        No access to memory before or after it is reordered around it.
        """
        self._put(0xDB, base, register, offset, _FETCH_ADD)

    def load_map(self, to: Register, map_fd: int) -> None:
        """``to = the map`` with descriptor ``map_fd``; this takes two instructions."""
        self._put(0x18, to, Register(_PSEUDO_MAP_FD), immediate=map_fd)
        self._put(0x00, Register.R0)

    def call(self, helper: Helper) -> None:
        """Call ``helper``; R1-R5 are lost."""
        self._put(0x85, Register.R0, immediate=helper)

    def jump(self, label: str) -> None:
        """Jump."""
        self._jump(0x05, Register.R0, Register.R0, label)

    def jump_if_zero(self, register: Register, label: str) -> None:
        """Jump where ``register == 0``."""
        self._jump(0x15, register, Register.R0, label)

    def jump_if_not_zero(self, register: Register, label: str) -> None:
        """Jump where ``register != 0``."""
        self._jump(0x55, register, Register.R0, label)

    def jump_if_negative32(self, register: Register, label: str) -> None:
        """Jump where the lower half of ``register``, signed, is below zero."""
        self._jump(0xC6, register, Register.R0, label)

    def jump_if_differs(self, left: Register, right: Register, label: str) -> None:
        """Jump where ``left != right``."""
        self._jump(0x5D, left, right, label)

    def jump_if_greater(self, left: Register, right: Register, label: str) -> None:
        """Jump where ``left > right``, unsigned."""
        self._jump(0x2D, left, right, label)

    def jump_if_at_least(self, left: Register, right: Register, label: str) -> None:
        """Jump where ``left >= right``, unsigned."""
        self._jump(0x3D, left, right, label)

    def jump_if_less_than(self, left: Register, value: int, label: str) -> None:
        """Jump where ``left < value``, unsigned."""
        self._jump(0xA5, left, Register.R0, label, value)

    def exit(self) -> None:
        """Return R0."""
        self._put(0x95, Register.R0)

    def finish(self) -> bytes:
        """Return the program's bytes."""
        for place, name in self._jumps.items():
            invariant(name in self._labels, f"label {name} is defined")
            opcode, registers, _, immediate = self._code[place]
            distance = self._labels[name] - place - 1
            self._code[place] = opcode, registers, distance, immediate
        return b"".join(_INSTRUCTION.pack(*parts) for parts in self._code)

    def _jump(
        self, opcode: int, left: Register, right: Register, label: str, value: int = 0
    ) -> None:
        self._jumps[len(self._code)] = label
        self._put(opcode, left, right, immediate=value)

    def _put(
        self,
        opcode: int,
        to: Register,
        source: Register = Register.R0,
        offset: int = 0,
        immediate: int = 0,
    ) -> None:
        self._code.append((opcode, source << 4 | to, offset, immediate))
