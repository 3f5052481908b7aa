"""What would happen if a node died now: the real decisions on a view without it.

The cluster is imagined some leases later, all other nodes being as they are now. Then
``decide_cluster`` is asked again and again, what it proposes is applied to a copy of
the state, and the standbys that live answer its survey with what they last reported.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from pgbastion.control.apply import Outcome, apply
from pgbastion.control.cluster import decide_cluster
from pgbastion.control.lease import longest_lease_policy
from pgbastion.control.loss import living_answers
from pgbastion.control.sync_standbys import desired_set, wanted_count
from pgbastion.model.actions import CatchUp, Decision, Propose, Survey
from pgbastion.model.cluster import ClusterState
from pgbastion.model.commands import encode_command
from pgbastion.model.explanation import Foreseen, Prospect
from pgbastion.model.ids import MemberId, NodeId, standby_name
from pgbastion.model.reasons import SENTENCES, Reason
from pgbastion.model.snapshot import NodeSnapshot
from pgbastion.model.views import ClusterView, RaftView, Received, SurveyView

STEPS_MAX: Final = 20
LATER_LEASES: Final = 4
"""So many leases later nobody's grant runs any more."""
SURVEY_MS: Final = 60_000
"""How long ago the imagined survey began: its patience is over."""


def foresee(snapshot: NodeSnapshot, dies: NodeId) -> Foreseen:
    """Return what would come of the death of a node, from what one node knows."""
    state = snapshot.state
    held, policy = state.assignment, longest_lease_policy(state)
    living = living_reports(snapshot)
    left = {node: r for node, r in living.items() if node != dies}
    votes = _votes(snapshot, left)
    quorum = snapshot.raft.quorum
    if votes < quorum:
        return Foreseen(
            node=dies,
            prospect=Prospect.MAJORITY_LOST,
            sentence=f"{votes} of {len(snapshot.raft.voters)} votes would be left, "
            f"{quorum} are needed: writes would stop within the lease",
        )
    if held is None or policy is None or (not held.live and held.node != dies):
        return Foreseen(
            node=dies,
            prospect=Prospect.NOTHING_CHANGES,
            sentence="nothing would change: there is no primary",
        )
    if held.node != dies:
        return _without_standby(snapshot, left, dies)
    return _without_primary(snapshot, left, dies)


def living_reports(snapshot: NodeSnapshot) -> dict[NodeId, Received]:
    """Return the reports of the nodes that live, as far as this one can tell."""
    return {
        node: received
        for node, received in snapshot.reports.items()
        if node == snapshot.node or snapshot.fresh_report(node) is not None
    }


def _votes(snapshot: NodeSnapshot, living: Mapping[NodeId, Received]) -> int:
    voters = set(snapshot.raft.voters)
    members = (snapshot.state.named(node) for node in living)
    return sum(m is not None and m.member_id in voters for m in members)


# A node that is not the primary


def _without_standby(
    snapshot: NodeSnapshot, left: Mapping[NodeId, Received], dies: NodeId
) -> Foreseen:
    state, held = snapshot.state, snapshot.state.assignment
    primary = held.node if held is not None else None
    if state.server(dies) is None:
        return Foreseen(
            node=dies,
            prospect=Prospect.PRIMARY_GOES_ON,
            primary=primary,
            sentence=f"{primary} would stay the primary; {dies} only has a vote",
        )
    prospect, words = _confirmed_by(state, frozenset(_streaming(snapshot, left)))
    return Foreseen(
        node=dies,
        prospect=prospect,
        primary=primary,
        sentence=f"{primary} would stay the primary, {words}",
    )


def _may_confirm(state: ClusterState, node: NodeId) -> bool:
    member = state.server(node)
    return member is not None and not member.nosync


def _streaming(
    snapshot: NodeSnapshot, left: Mapping[NodeId, Received]
) -> Iterator[str]:
    """Yield the names of the living standbys that may confirm commits."""
    for member in snapshot.state.servers:
        received = left.get(member.name)
        if received is None or member.nosync or member.data_id is None:
            continue
        if received.report.streaming and not received.report.files_lost:
            yield standby_name(member.name, member.data_id)


def _confirmed_by(state: ClusterState, names: frozenset[str]) -> tuple[Prospect, str]:
    """Return who would confirm commits if these standbys were all there are."""
    wanted = wanted_count(state)
    if wanted == 0:
        return Prospect.PRIMARY_GOES_ON, "commits wait for nobody"
    sync = desired_set(state, names, ())
    if state.strict and len(names) < wanted:
        return Prospect.COMMITS_WAIT, "its commits would wait for a standby (strict)"
    if sync.num_sync == 0:
        return Prospect.COMMITS_ALONE, "no other node would confirm its commits"
    shown = ", ".join(sorted(name.rpartition("_")[0] for name in sync.names))
    words = f"commits confirmed by {sync.num_sync} of {shown}"
    return Prospect.PRIMARY_GOES_ON, words


# The primary


def _without_primary(
    snapshot: NodeSnapshot, left: Mapping[NodeId, Received], dies: NodeId
) -> Foreseen:
    end = _Imagined(snapshot, left).play()
    held = end.state.assignment
    if held is None or held.epoch == snapshot.state.epoch:
        reason = end.decision.reason
        detail = f" ({end.decision.detail})" if end.decision.detail else ""
        return Foreseen(
            node=dies,
            prospect=Prospect.NO_PRIMARY,
            sentence=f"nobody would become the primary: {SENTENCES[reason]}{detail}",
            reason=reason,
        )
    policy = longest_lease_policy(end.state)
    wait_s = policy.lease_ms / 1_000 if policy is not None else 0
    others = frozenset(
        standby_name(a.node, a.data_id)
        for a in living_answers(end.state, left)
        if a.node != held.node and _may_confirm(end.state, a.node)
    )
    prospect, words = _confirmed_by(end.state, others)
    if prospect is Prospect.PRIMARY_GOES_ON:
        prospect = Prospect.OTHER_PRIMARY
    return Foreseen(
        node=dies,
        prospect=prospect,
        primary=held.node,
        reason=end.decision.reason,
        sentence=f"{held.node} would become the primary within about {wait_s:g} s, "
        f"{words}",
    )


@dataclass(kw_only=True)
class _End:
    state: ClusterState
    decision: Decision = field(default_factory=lambda: Decision(Reason.NOT_LEADER))


class _Imagined:
    """The cluster without its primary, some leases later."""

    def __init__(self, snapshot: NodeSnapshot, left: Mapping[NodeId, Received]) -> None:
        self._snapshot = snapshot
        self._left = left
        self._end = _End(state=snapshot.state)
        policy = longest_lease_policy(snapshot.state)
        lease_ms = policy.lease_ms if policy is not None else 0
        self._later_ms = LATER_LEASES * lease_ms + SURVEY_MS
        self._now_ms = snapshot.now_ms + self._later_ms
        self._survey: SurveyView | None = None

    def play(self) -> _End:
        """Let the decisions go on until they come to rest."""
        for _ in range(STEPS_MAX):
            epoch = self._end.state.epoch
            decision = decide_cluster(self._view())
            self._end.decision = decision
            if not self._carry_out(decision):
                break
            if self._end.state.epoch != epoch:
                break
        return self._end

    def _view(self) -> ClusterView:
        snapshot = self._snapshot
        voters = snapshot.raft.voters
        leader = self._leader()
        return ClusterView(
            now_ms=self._now_ms,
            state=self._end.state,
            raft=RaftView(
                member_id=leader,
                term=snapshot.raft.term + 1,
                leader=leader,
                is_leader=True,
                own_entry_applied=True,
                elected_ms=snapshot.now_ms,
                last_answer_ms=0,
                voters=voters,
                learners=snapshot.raft.learners,
                configurations=(voters,),
            ),
            reports=dict(snapshot.reports)
            | {n: replace(r, at_ms=self._now_ms) for n, r in self._left.items()},
            survey=self._survey,
            report_ms=snapshot.report_max_ms,
            lag_max_bytes=snapshot.lag_max_bytes,
        )

    def _leader(self) -> MemberId:
        voters = set(self._snapshot.raft.voters)
        members = (self._snapshot.state.named(node) for node in self._left)
        return min(m.member_id for m in members if m and m.member_id in voters)

    def _carry_out(self, decision: Decision) -> bool:
        """Do what was decided; tell whether that changed anything."""
        changed = False
        for action in decision.actions:
            if isinstance(action, Propose):
                state = self._end.state
                data = encode_command(action.command)
                applied = apply(state, state.index + 1, "", data)
                self._end.state = applied.state
                changed = changed or applied.outcome is Outcome.OK
            elif isinstance(action, Survey) and self._survey is None:
                self._survey = SurveyView(
                    epoch=action.epoch,
                    started_ms=self._now_ms - SURVEY_MS,
                    answers=living_answers(self._end.state, self._left),
                    asked_ms=self._now_ms,
                )
                changed = True
            elif isinstance(action, CatchUp) and self._survey is not None:
                self._survey = _caught_up(self._survey, action)
                changed = True
        return changed


def _caught_up(survey: SurveyView, action: CatchUp) -> SurveyView:
    answers = tuple(
        replace(a, wal_end=action.upto) if a.node == action.node else a
        for a in survey.answers
    )
    return replace(survey, answers=answers)
