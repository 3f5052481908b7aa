"""The program that moves a session's bytes inside the kernel.

It runs for every piece of stream that arrives at a socket of the proxy's, and either
redirects it to the send queue of the session's other socket or passes it up to user
space. It redirects only while all of this holds:

- user space has dealt with everything that was passed up before (order),
- the credit for this direction covers the piece (backpressure), and
- the lease that the session is bound to has not run out (S5), on a clock that also
  counts suspension.

So a proxy that is frozen, or that has not granted anything yet, moves nothing.

It also looks after the sequence of the stream itself. A segment that was sent again may
begin with bytes that came before: TCP leaves it to the reader to skip them, and the
kernel's reader for programs does not (net/ipv4/tcp.c, tcp_read_skb). So the program
cuts them off, or breaks the session where that cannot be done.

A socket whose pieces are redirected wakes user space for none of them. What user space
has to hear of, the program puts into a ring: that a piece was passed up to a reader who
did not expect any, and that the credit is running out.
"""

from enum import IntEnum
from typing import Final

from pgbastion.proxy.kernel.assembler import Assembler, Helper, Register

R0, R1, R2, R3, R4 = (Register(number) for number in range(5))
R6, R7, R8, R9, FRAME = (Register(number) for number in range(6, 11))

WORDS_PER_SLOT: Final = 8
# How many of the last bytes redirected are kept: a whole ReadyForQuery.
TAIL_BYTES: Final = 6

_DROP: Final = 0
_PASS: Final = 1
_WORD: Final = 8
# On the stack: the socket's cookie, a lease's slot number, an instant, and the number
# of the direction's slot as it goes into the ring.
_COOKIE: Final = -8
_NUMBER: Final = -12
_EXPIRY: Final = -24
_ALARM: Final = -32
# In struct __sk_buff. The first word of the control block is, as long as the piece is
# TCP's, the sequence number of its first byte; struct tcp_skb_cb.
_SKB_LEN: Final = 0
_SKB_SEQUENCE: Final = 48
# The most that the helper cuts off at once, and how often it is asked to. Segments that
# arrive while the socket is in use are joined to one piece (net/ipv4/tcp_ipv4.c,
# tcp_add_backlog), old ones too: of 17 fragments of 32 KiB at most.
_CUT_BYTES: Final = 0xFFF
_CUTS_MAX: Final = 137
# Added to `Word.NEXT`, this marks a stream that is broken.
BROKEN: Final = 1 << 32


class Word(IntEnum):
    """The words of a direction's slot. A lease's slot has its expiry in word 0."""

    # Written by user space:
    LIMIT = 0  # up to where REDIRECTED may go
    CONSUMED = 1  # how much of PASSED has been sent on
    LEASE = 2  # the number of the slot that holds the expiry
    # Written by the program:
    REDIRECTED = 3  # bytes moved here
    PASSED = 4  # bytes left to user space
    TAIL = 5  # the last bytes redirected, 0 when the piece was shorter than that
    # Written by user space:
    CALL_AT = 6  # the value of REDIRECTED beyond which to ask for more credit
    # Written by user space at first, then by the program:
    NEXT = 7  # the sequence number of the next byte


def build_program(
    *, slots_fd: int, words_fd: int, sockets_fd: int, alarms_fd: int, may_cut: bool
) -> bytes:
    """Assemble the program.

    Args:
        slots_fd: Map from a socket's cookie (u64) to its slot (u32).
        words_fd: Array of slots, see `Word`.
        sockets_fd: Map from a socket's cookie to the other socket of its session.
        alarms_fd: Ring that takes the numbers of slots that want attention.
        may_cut: Whether bytes can be cut off a piece; if not, the session is broken.
    """
    program = Assembler()
    _find_slot(program, slots_fd, words_fd)
    _check_sequence(program, alarms_fd, may_cut=may_cut)
    _check_credit(program)
    _check_lease(program, words_fd)
    _ask_for_credit(program, alarms_fd)
    _count_and_keep_tail(program)
    _redirect(program, sockets_fd)
    _pass_up(program, alarms_fd)
    return program.finish()


def _find_slot(p: Assembler, slots_fd: int, words_fd: int) -> None:
    """R6 = the piece, R7 = this direction's words, R8 = the piece's length."""
    p.move(R6, R1)  # R1 is the piece (struct __sk_buff) at the start
    p.call(Helper.GET_SOCKET_COOKIE)  # R0 = cookie of the socket it arrived at
    p.store64(FRAME, _COOKIE, R0)
    p.load_map(R1, slots_fd)
    p.move(R2, FRAME)
    p.add_value(R2, _COOKIE)  # R2 = &cookie
    p.call(Helper.MAP_LOOKUP_ELEM)  # R0 = &slot number, or 0
    p.jump_if_zero(R0, "pass")  # not (or no longer) one of ours: leave it
    p.load32(R1, R0, 0)
    p.store64(FRAME, _ALARM, R1)
    p.load_map(R1, words_fd)
    p.move(R2, FRAME)
    p.add_value(R2, _ALARM)  # R2 = &slot number, whose lower half comes first
    p.call(Helper.MAP_LOOKUP_ELEM)  # R0 = the slot's words, or 0
    p.jump_if_zero(R0, "pass")
    p.move(R7, R0)
    p.load32(R8, R6, _SKB_LEN)
    # A bare FIN is judged too. The kernel's queue takes a piece of no bytes for a
    # failure, and would break with EPIPE the socket that it is redirected to, or the
    # socket itself if it is passed while that queue is in use. The end of the stream
    # has been noted before this runs, so the empty piece can go.
    p.jump_if_zero(R8, "drop")


def _check_sequence(p: Assembler, alarms_fd: int, *, may_cut: bool) -> None:
    """Cut off what came before; R8 = the length that is left.

    A piece may begin later than NEXT: user space read the bytes between before the
    program was asked about any.
    """
    p.load32(R1, R7, Word.NEXT * _WORD + 4)
    p.jump_if_not_zero(R1, "drop")  # it is broken
    p.load32(R9, R7, Word.NEXT * _WORD)
    p.load32(R1, R6, _SKB_SEQUENCE)
    p.subtract32(R9, R1)  # R9 = how much of the piece came before
    p.add32(R1, R8)
    p.store64(R7, Word.NEXT * _WORD, R1)
    p.jump_if_zero(R9, "in sequence")
    p.jump_if_negative32(R9, "in sequence")
    if may_cut:
        p.jump_if_at_least(R9, R8, "break")  # TCP keeps no piece that is all old
        _cut(p)
    p.label("break")
    p.set(R1, 1)
    p.store32(R7, Word.NEXT * _WORD + 4, R1)
    _sound(p, alarms_fd)
    p.jump("drop")
    p.label("in sequence")


def _cut(p: Assembler) -> None:
    """Cut R9 bytes off; go to "in sequence" when that is done."""
    for number in range(_CUTS_MAX):
        p.move(R2, R9)
        p.set(R1, _CUT_BYTES)
        p.jump_if_at_least(R1, R2, f"cut {number}")
        p.move(R2, R1)
        p.label(f"cut {number}")
        p.subtract32(R9, R2)
        p.subtract32(R8, R2)
        p.negate(R2)
        p.move(R1, R6)
        p.set(R3, 0)
        p.set(R4, 0)
        p.call(Helper.SKB_ADJUST_ROOM)
        p.jump_if_not_zero(R0, "break")
        p.jump_if_zero(R9, "in sequence")


def _check_credit(p: Assembler) -> None:
    """R9 = what REDIRECTED becomes; go to "count" where it may not."""
    p.load64(R1, R7, Word.CONSUMED * _WORD)
    p.load64(R2, R7, Word.PASSED * _WORD)
    p.jump_if_differs(R1, R2, "count")  # user space still has bytes that go first
    p.load64(R9, R7, Word.REDIRECTED * _WORD)
    p.add(R9, R8)
    p.load64(R1, R7, Word.LIMIT * _WORD)
    p.jump_if_greater(R9, R1, "count")  # the receiver has not taken enough yet


def _check_lease(p: Assembler, words_fd: int) -> None:
    """Go to "count" where the lease is over."""
    p.load64(R1, R7, Word.LEASE * _WORD)
    p.store32(FRAME, _NUMBER, R1)
    p.load_map(R1, words_fd)
    p.move(R2, FRAME)
    p.add_value(R2, _NUMBER)
    p.call(Helper.MAP_LOOKUP_ELEM)  # R0 = the lease's words, or 0
    p.jump_if_zero(R0, "count")
    p.load64(R1, R0, 0)
    p.store64(FRAME, _EXPIRY, R1)
    p.call(Helper.KTIME_GET_BOOT_NS)  # R0 = now, CLOCK_BOOTTIME
    p.load64(R1, FRAME, _EXPIRY)
    p.jump_if_at_least(R0, R1, "count")


def _ask_for_credit(p: Assembler, alarms_fd: int) -> None:
    """Sound the alarm where this piece takes REDIRECTED beyond CALL_AT."""
    p.load64(R1, R7, Word.CALL_AT * _WORD)
    p.load64(R2, R7, Word.REDIRECTED * _WORD)
    p.jump_if_greater(R2, R1, "no alarm")  # the alarm was given before
    p.jump_if_at_least(R1, R9, "no alarm")
    _sound(p, alarms_fd)
    p.label("no alarm")


def _sound(p: Assembler, alarms_fd: int) -> None:
    """Put the slot's number into the ring, which wakes user space."""
    p.load_map(R1, alarms_fd)
    p.move(R2, FRAME)
    p.add_value(R2, _ALARM)
    p.set(R3, _WORD)
    p.set(R4, 0)  # wake it if it has seen everything before this
    p.call(Helper.RINGBUF_OUTPUT)


def _count_and_keep_tail(p: Assembler) -> None:
    """Only this program, under the socket's lock, writes these words."""
    p.store64(R7, Word.REDIRECTED * _WORD, R9)
    p.set(R1, 0)
    p.store64(R7, Word.TAIL * _WORD, R1)
    p.jump_if_less_than(R8, TAIL_BYTES, "redirect")
    p.move(R1, R6)
    p.move(R2, R8)
    p.add_value(R2, -TAIL_BYTES)  # R2 = where the tail begins
    p.move(R3, R7)
    p.add_value(R3, Word.TAIL * _WORD)  # R3 = &TAIL
    p.set(R4, TAIL_BYTES)
    p.call(Helper.SKB_LOAD_BYTES)


def _redirect(p: Assembler, sockets_fd: int) -> None:
    p.label("redirect")
    p.move(R1, R6)
    p.load_map(R2, sockets_fd)
    p.move(R3, FRAME)
    p.add_value(R3, _COOKIE)  # R3 = &cookie: the peer is filed under it
    p.set(R4, 0)  # into its send queue
    p.call(Helper.SK_REDIRECT_HASH)
    p.exit()  # R0 is the verdict


def _pass_up(p: Assembler, alarms_fd: int) -> None:
    """Count the piece; sound the alarm where user space does not listen.

    It stops listening when it writes CONSUMED, and looks at PASSED once more after
    that. Here PASSED is written before CONSUMED is read. So one of the two sees what
    the other one did.
    """
    p.label("count")
    p.move(R1, R8)
    p.fetch_add64(R7, Word.PASSED * _WORD, R1)  # R1 = what PASSED was
    p.load64(R2, R7, Word.CONSUMED * _WORD)
    p.jump_if_differs(R1, R2, "pass")
    _sound(p, alarms_fd)
    p.label("pass")
    p.set(R0, _PASS)
    p.exit()
    p.label("drop")
    p.set(R0, _DROP)
    p.exit()
