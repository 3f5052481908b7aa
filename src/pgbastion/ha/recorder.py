"""Keeps the newest decisions that differed from the one before, with their views."""

from collections import deque

from pgbastion.model.actions import Decision
from pgbastion.model.recording import RECORDS_MAX, RecordedDecision
from pgbastion.model.views import ClusterView, NodeView


class Recorder:
    """A bounded memory of decisions; views are frozen, so keeping them costs little."""

    def __init__(self, most: int = RECORDS_MAX) -> None:
        self._kept: deque[RecordedDecision] = deque(maxlen=most)
        self._latest: dict[type, RecordedDecision] = {}
        self._number = 0

    def note(
        self, view: NodeView | ClusterView, decision: Decision, *, changed: bool
    ) -> None:
        """Keep a decision that changed; of the others the latest of each kind."""
        self._number += 1
        kept = RecordedDecision(number=self._number, view=view, decision=decision)
        self._latest[type(view)] = kept
        if changed:
            self._kept.append(kept)

    @property
    def records(self) -> tuple[RecordedDecision, ...]:
        """What is kept, oldest first; the latest pass comes last."""
        numbers = {kept.number for kept in self._kept}
        latest = (k for k in self._latest.values() if k.number not in numbers)
        return (*self._kept, *sorted(latest, key=lambda kept: kept.number))
