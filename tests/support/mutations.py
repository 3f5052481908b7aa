"""The deliberate mutations of the lease's protocol, each as edits of a copied source.

Each names the script in which it has to break a promise, and which promise that is.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A text of one file, and what stands in its place in the copy."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One rule left out."""

    name: str
    script: str
    promise: str
    edits: tuple[Edit, ...]

    def apply(self, package: Path) -> None:
        """Edit the copy of the package in this folder.

        Raises:
            LookupError: The source has changed so that the mutation no longer fits.
        """
        for edit in self.edits:
            path = package / edit.file
            text = path.read_text()
            if text.count(edit.old) != 1:
                raise LookupError(f"{self.name}: {edit.file} has changed: {edit.old!r}")
            path.write_text(text.replace(edit.old, edit.new))


MUTATIONS: Final = (
    Mutation(
        name="a shorter lease waited for as soon as it is wanted",
        script="cut_off_before_a_shorter_lease_counts",
        promise="S4",
        edits=(
            Edit(
                file="control/lease.py",
                old="    if policy is None or longer is None:\n",
                new="    if True:\n",
            ),
        ),
    ),
    Mutation(
        name="longer leases not waited out",
        script="cut_off_while_a_longer_lease_runs_out",
        promise="S4",
        edits=(
            Edit(
                file="control/policy.py",
                old="    if view.now_ms < since_ms + stretched_ms(longest):\n",
                new="    if view.now_ms < since_ms:\n",
            ),
        ),
    ),
    Mutation(
        name="no wait for the end of the lease",
        script="holder_is_cut_off",
        promise="S4",
        edits=(
            Edit(
                file="control/cluster.py",
                old=(
                    "    return max(\n"
                    "        own_grants_end_ms(policy, view.raft.last_answer_ms),\n"
                    "        older_grants_end_ms(policy, view.raft, view.ages),\n"
                    "    )"
                ),
                new="    return 0",
            ),
        ),
    ),
    Mutation(
        name="ages skipped",
        script="leader_that_stepped_down",
        promise="S4",
        edits=(
            Edit(
                file="control/cluster.py",
                old="        older_grants_end_ms(policy, view.raft, view.ages),\n    )",
                new="        0,\n    )",
            ),
        ),
    ),
    Mutation(
        name="the machine's uptime for the age of a restarted voter",
        script="restarted_voter",
        promise="S4",
        edits=(
            Edit(
                file="testing/sim/engine.py",
                old="lock_ns=machine.clock.now_ns(),",
                new="lock_ns=1,",
            ),
        ),
    ),
    Mutation(
        name="age counted from the question",
        script="slow_question",
        promise="S4",
        edits=(
            Edit(
                file="ha/host.py",
                old="kept.update({a.member_id: a for a in answers})",
                new=(
                    "kept.update({a.member_id: replace(a, "
                    "receipt_ms=self._ages_asked_ms) for a in answers})"
                ),
            ),
        ),
    ),
    Mutation(
        name="renewals answered after the decision",
        script="wakes_between_decision_and_assignment",
        promise="S4",
        edits=(
            Edit(
                file="ha/host.py",
                old=(
                    "        self._closed_epoch = max(self._closed_epoch, epoch)\n"
                    "        return ms_up(self._engine.lease(0, 0, 0, 0))"
                ),
                new="        return ms_up(self._engine.status().last_answer_ns)",
            ),
            Edit(
                file="ha/host.py",
                old="            and held.live\n",
                new="",
            ),
        ),
    ),
    Mutation(
        name="revocation off",
        script="leader_dies_after_survey",
        promise="L1",
        edits=(
            Edit(
                file="control/cluster.py",
                old="    if not held.revoked:\n        revoke",
                new="    if False:\n        revoke",
            ),
            Edit(
                file="control/cluster.py",
                old=(
                    "    if held.live:\n"
                    "        return _decide_on_holder(view, policy, held)\n"
                ),
                new=(
                    "    if held.live:\n"
                    "        decided = _decide_on_holder(view, policy, held)\n"
                    "        if decided.reason is not Reason.LEASE_RAN_OUT:\n"
                    "            return decided\n"
                ),
            ),
            Edit(
                file="control/apply.py",
                old=(
                    "    if state.assignment is not None and state.assignment.live:\n"
                    "        return Outcome.HOLDS_EPOCH\n"
                ),
                new="",
            ),
        ),
    ),
    Mutation(
        name="LSN read before the cut",
        script="commits_while_surveyed",
        promise="S2",
        edits=(
            Edit(
                file="ha/cutter.py",
                old=(
                    "            return StoppedEnd("
                    "wal_end=await self._database.cut(epoch))"
                ),
                new=(
                    "            end = await self._database.wal_end()\n"
                    "            await self._database.cut(epoch)\n"
                    "            return StoppedEnd(wal_end=end)"
                ),
            ),
        ),
    ),
    Mutation(
        name="no catching up before the promotion",
        script="furthest_is_barred",
        promise="S2",
        edits=(
            Edit(
                file="control/survey.py",
                old="        end = furthest_end(state, among)\n",
                new=(
                    "        end = furthest_end(state, among) and max(\n"
                    "            a.wal_end for a in promotable if a.wal_end\n"
                    "        )\n"
                ),
            ),
        ),
    ),
    Mutation(
        name="opened skipped",
        script="successors_die_in_turn",
        promise="S2",
        edits=(
            Edit(
                file="control/node_sync.py",
                old="    if held.opened:\n        return None\n",
                new="    if held.epoch:\n        return None\n",
            ),
            Edit(
                file="control/node_sync.py",
                old=(
                    "    if opened is None or opened.epoch != held.epoch:\n"
                    "        return None\n"
                    "    if view.sync_unsettled"
                ),
                new=(
                    "    if opened is None or opened.epoch != held.epoch:\n"
                    "        rows = view.postgres.replication\n"
                    "        names = [row.name for row in rows if row.streaming]\n"
                    "        sync = desired_set(view.state, names, ())\n"
                    "        if view.postgres.server_sync == sync:\n"
                    "            return None\n"
                    "        actions = (ApplySyncSet(sync=sync),)\n"
                    "        return Decision(Reason.CHANGING_SYNC_SET, actions)\n"
                    "    if view.sync_unsettled"
                ),
            ),
        ),
    ),
    Mutation(
        name="a set still confirmed once another one was begun",
        script="set_fails_half_way",
        promise="S2",
        edits=(
            Edit(
                file="ha/executor.py",
                old="                self._observer.on_sync_changing()\n",
                new="",
            ),
        ),
    ),
    Mutation(
        name="a first set promised before a commit was seen to wait",
        script="first_set_in_a_checkpoint",
        promise="S2",
        edits=(
            Edit(
                file="postgres/sync_change.py",
                old="        elif not first:\n",
                new="        elif True:\n",
            ),
        ),
    ),
    Mutation(
        name="a timeline counts that somebody took by hand",
        script="strayed_standby_is_surveyed",
        promise="S2",
        edits=(
            Edit(
                file="control/survey.py",
                old=(
                    "    if end is None or end.timeline not in state.later_timelines "
                    "or answer.has_strayed:\n"
                ),
                new=(
                    "    if end is None or end.timeline not in state.later_timelines:\n"
                ),
            ),
        ),
    ),
    Mutation(
        name="set strengthened before the server",
        script="standby_leaves_and_confirms",
        promise="S2",
        edits=(
            Edit(
                file="control/sync_standbys.py",
                old="    if not satisfies(server, replicated):",
                new=(
                    "    if replicated != desired:\n"
                    "        return SetReplicated(sync=desired)\n"
                    "    if server != desired:\n"
                    "        return SetServer(sync=desired)\n"
                    "    if not satisfies(server, replicated):"
                ),
            ),
        ),
    ),
    Mutation(
        name="data ids ignored",
        script="replaced_disk",
        promise="S2",
        edits=(
            Edit(
                file="model/ids.py",
                old='return f"{node}_{data_id[:8]}"',
                new='return f"{node}"',
            ),
            Edit(
                file="control/survey.py",
                old="(a.node, a.data_id) == (opened.node, opened.data_id)",
                new="a.node == opened.node",
            ),
        ),
    ),
    Mutation(
        name="a program that failed to switch the holder off vouches for it",
        script="fencing_fails",
        promise="S4",
        edits=(
            Edit(
                file="control/fencing.py",
                old="call.confirmed and not needs_no_lease_wait",
                new="call.ended_ms and not needs_no_lease_wait",
            ),
        ),
    ),
    Mutation(
        name="the holder surveyed without a latch",
        script="rebooted_holder",
        promise="S4",
        edits=(
            Edit(
                file="ha/cutter.py",
                old="            await self._guard.end_epoch(epoch)\n",
                new="",
            ),
        ),
    ),
    Mutation(
        name="an address for replicas moves without a wait",
        script="address_holder_is_cut_off",
        promise="E",
        edits=(
            Edit(
                file="control/placing.py",
                old="self._seen_ms(placed) + lease_ms:",
                new="self._seen_ms(placed):",
            ),
        ),
    ),
    Mutation(
        name="a node's word on an address from before its placement counts",
        script="address_holder_hears_it_late",
        promise="E",
        edits=(
            Edit(
                file="control/placing.py",
                old="offer.seen == placed.serial and not",
                new="not",
            ),
        ),
    ),
)

NATIVE_MUTATIONS: Final = (
    Mutation(
        name="a lease counted from the receipt of the answer",
        script="late_answer",
        promise="S4",
        edits=(
            Edit(
                file="engine/src/core/leases.rs",
                old="            if expiry_ns > now_ns {",
                new=(
                    "            let expiry_ns = now_ns + lease_ns + 0 * expiry_ns;\n"
                    "            if expiry_ns > now_ns {"
                ),
            ),
        ),
    ),
)
"""Mutations of the engine: each needs a build of its own."""
