"""The lease's arithmetic: what a holder believes never outlasts what a leader waits."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from pgbastion.consensus._engine import Confirmations, LeaseGranter, LeaseHolder

MS = 1_000_000
LEASE_MS = 2_000
DRIFT_PPM = 1_000
EPOCH = 3
INCARNATION = 7
HOLDER = 2
START_NS = 10**15


@dataclass
class Clock:
    """A node's clock, whose rate differs by at most half the bound."""

    rate_ppm: int
    offset_ns: int

    def at(self, true_ns: int) -> int:
        """Return what it shows at a true instant."""
        return true_ns + true_ns * self.rate_ppm // 1_000_000 + self.offset_ns

    def true(self, shown_ns: int) -> int:
        """Return the first true instant at which it shows this or more."""
        passed_ns = shown_ns - self.offset_ns
        return -(-passed_ns * 1_000_000 // (1_000_000 + self.rate_ppm))


@dataclass
class Pair:
    """A holder and the leader that answers it, on clocks of their own."""

    holder_clock: Clock
    leader_clock: Clock
    holder: LeaseHolder = field(default_factory=LeaseHolder)
    granter: LeaseGranter = field(default_factory=LeaseGranter)
    expiry_ns: int = 0
    reads: int = 0

    def begin(self) -> None:
        """Hold, and lease to the holder."""
        self.granter.elected()
        self.granter.lease(HOLDER, EPOCH, INCARNATION, LEASE_MS)
        self.holder.hold(
            EPOCH,
            INCARNATION,
            renew_ns=250 * MS,
            deadline_ns=400 * MS,
            evidence_max_ns=800 * MS,
            asked_max_ns=0,
        )

    def renew(self, true_ns: int, delays_ms: tuple[int, int, int]) -> None:
        """Send the renewal that is due, and let it travel, be confirmed, return."""
        sent_ns = self.holder_clock.at(true_ns)
        page = {"evidence_ns": sent_ns}
        renewal = self.holder.due(sent_ns, page)
        if not isinstance(renewal, dict):
            return
        there, confirmed, _back = (delay * MS for delay in delays_ms)
        self.granter.arrived(HOLDER, EPOCH, INCARNATION, renewal["number"])
        self.reads += 1
        self.granter.read_begun(self.reads)
        self.granter.read_confirmed(self.reads, 1)
        answered_ns = self.leader_clock.at(true_ns + there + confirmed)
        for _, number, lease in self.granter.answers(answered_ns, 1):
            if isinstance(lease, int):
                expiry_ns = self.holder.granted(EPOCH, number, lease, page)
                self.expiry_ns = max(self.expiry_ns, expiry_ns or 0)


delays = st.tuples(st.integers(0, 600), st.integers(0, 600), st.integers(0, 600))
clocks = st.builds(
    Clock,
    rate_ppm=st.integers(-DRIFT_PPM // 2 + 1, DRIFT_PPM // 2 - 1),
    offset_ns=st.integers(-(10**12), 10**12),
)


@given(
    holder_clock=clocks,
    leader_clock=clocks,
    rounds=st.lists(st.tuples(st.integers(1, 900), delays), min_size=1, max_size=20),
)
def test_a_leader_that_waits_after_its_last_answer_outlasts_the_holder(
    holder_clock: Clock,
    leader_clock: Clock,
    rounds: list[tuple[int, tuple[int, int, int]]],
) -> None:
    pair = Pair(holder_clock, leader_clock)
    pair.begin()
    true_ns = START_NS
    for pause_ms, delays_ms in rounds:
        true_ns += pause_ms * MS
        pair.renew(true_ns, delays_ms)

    last_answer_ns = pair.granter.lease(0, 0, 0, 0)

    if pair.expiry_ns:
        waited_ns = (
            last_answer_ns + LEASE_MS * MS * (1_000_000 + DRIFT_PPM) // 1_000_000
        )
        assert holder_clock.true(pair.expiry_ns) <= leader_clock.true(waited_ns)


@given(
    confirmations=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 500)), max_size=30
    ),
    asked_more=st.integers(0, 2),
)
def test_an_age_reaches_back_to_the_newest_confirmation_of_an_older_term(
    confirmations: list[tuple[int, int]], asked_more: int
) -> None:
    voter = Confirmations(START_NS)
    term, now_ns = 1, START_NS
    said = [(0, START_NS)]
    for term_step, pause_ms in confirmations:
        term, now_ns = term + term_step, now_ns + pause_ms * MS
        voter.confirmed(term, now_ns)
        said.append((term, now_ns))
    asked = term + asked_more

    newest_ns = max(at_ns for of, at_ns in said if of < asked)

    assert voter.age_ns(asked, now_ns) == now_ns - newest_ns


def test_a_renewal_says_what_the_page_says() -> None:
    pair = Pair(Clock(0, 0), Clock(0, 0))
    pair.begin()
    page = {
        "evidence_ns": START_NS - 5 * MS,
        "pause_revision": 4,
        "paused": 1,
        "policy_revision": 9,
    }

    assert pair.holder.due(START_NS, page) == {
        "epoch": EPOCH,
        "incarnation": INCARNATION,
        "number": 1,
        "evidence_age_ns": 5 * MS,
        "pause_revision": 4,
        "paused": 1,
        "policy_revision": 9,
    }


def test_a_holder_says_why_it_does_not_renew() -> None:
    pair = Pair(Clock(0, 0), Clock(0, 0))
    pair.begin()

    assert pair.holder.due(START_NS, {}) == "no_evidence"
    assert pair.holder.due(START_NS, {"released_epoch": EPOCH}) == "ended"


def test_a_granter_says_why_it_does_not_grant() -> None:
    granter = LeaseGranter()
    granter.elected()
    granter.arrived(HOLDER, EPOCH, INCARNATION, 1)
    granter.read_begun(1)
    granter.read_confirmed(1, 5)

    assert granter.answers(START_NS, 5) == [(HOLDER, 1, "closed")]
