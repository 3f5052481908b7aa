"""The daemon's words of the shared page."""

from pgbastion.clock import NS_PER_MS, boottime_ns
from pgbastion.errors import PgBastionError
from pgbastion.guard import page as words
from pgbastion.guard.page import Page
from pgbastion.ha.sight import LeaseWords
from pgbastion.model.cluster import ClusterState
from pgbastion.model.ids import Epoch


class SharedPage:
    """The daemon's words of the shared page.

    They are written only while this daemon is the writer: a successor may
    have been named while this process was stopped.
    """

    def __init__(self, page: Page, generation: int) -> None:
        self._page = page
        self.generation = generation

    def _may_write(self) -> bool:
        return self._page[words.GENERATION] == self.generation

    def note_evidence(self, at_ns: int) -> None:
        """Note that PostgreSQL and its disks answered."""
        if self._may_write() and at_ns > self._page[words.EVIDENCE_NS]:
            self._page[words.EVIDENCE_NS] = at_ns

    def latch_release(self, epoch: Epoch) -> None:
        """Note that this epoch is released, before anybody is told.

        Raises:
            PgBastionError: Another daemon is the writer.
        """
        if not self._may_write():
            raise PgBastionError(
                "another daemon of this node is the writer of the page"
            )
        self._page[words.RELEASED_EPOCH] = max(self._page[words.RELEASED_EPOCH], epoch)

    def set_lead(self, lead_ms: int, *, sure: bool) -> None:
        """Set how long before the lease's end the guard acts.

        Args:
            lead_ms: The margin of the timings by which this daemon goes.
            sure: They are the cluster's. What a file says may be too long for the
                lease: until then what a former daemon has set stays.
        """
        if self._may_write() and (sure or not self._page[words.LEAD_NS]):
            self._page[words.LEAD_NS] = lead_ms * 1_000_000

    def note_pause(self, revision: int, *, paused: bool) -> None:
        """Have the guard know whether a pause is on; an older word changes nothing."""
        page = self._page
        if not self._may_write() or revision < page[words.PAUSE_REVISION]:
            return
        if paused:
            # Whoever reads between the two writes must not act on a lease any more.
            page[words.PAUSED] = 1
            page[words.PAUSE_REVISION] = revision
        else:
            page[words.PAUSE_REVISION] = revision
            page[words.PAUSED] = 0

    def note_policy(self, revision: int, *, newest: bool) -> None:
        """Have a later daemon know how short leases have become.

        Args:
            revision: The policy whose timings this daemon goes by.
            newest: The state is known to be no older than the cluster's.
        """
        page = self._page
        if self._may_write() and (newest or revision > page[words.POLICY_REVISION]):
            page[words.POLICY_REVISION] = revision

    def note_leaving(self) -> None:
        """Have a successor know that this daemon is about to end: it waits."""
        if self._may_write():
            self._page[words.LEAVING] = self.generation

    def grants(self, epoch: Epoch, state: ClusterState, margin_ms: int) -> bool:
        """Tell whether this node may act as the holder of ``epoch`` just now."""
        page, held = self.read(), state.assignment
        return (
            held is not None
            and held.epoch == epoch
            and held.live
            and page.epoch == epoch
            and page.released_epoch < epoch
            and boottime_ns() < page.expiry_ns - margin_ms * NS_PER_MS
        )

    def read(self) -> LeaseWords:
        """Return what the page says."""
        page = self._page
        return LeaseWords(
            epoch=page[words.EPOCH],
            expiry_ns=page[words.EXPIRY_NS],
            released_epoch=page[words.RELEASED_EPOCH],
            evidence_ns=page[words.EVIDENCE_NS],
            pause_revision=page[words.PAUSE_REVISION],
            paused=page[words.PAUSED] != 0,
            policy_revision=page[words.POLICY_REVISION],
        )
