"""Decisions: pure functions from what is observed to what to do, with reasons.

A failover, and where to read it:

1. The Raft leader asks :mod:`.cluster` whenever something changes. A holder that renews
   its lease is left alone. One that was silent for as long as any lease may last
   (:mod:`.lease`) is revoked; sooner if it released the role, or if somebody outside
   vouches that it is off (:mod:`.fencing`).
2. :mod:`.succession` has the servers cut themselves off from the old epoch and say what
   they have. :mod:`.survey` tells whether every acknowledged commit is among that, and
   who has it; :mod:`.candidates` whom of these an operator prefers. That one is
   assigned the next epoch.
3. :mod:`.apply` makes the next state of each command that is committed, on every node;
   the ``apply_`` modules have the commands of one concern each.
4. Each node asks :mod:`.node` what it is to do: its duty and what it finds there are a
   row of the table in :mod:`.transitions`, whose steps are in :mod:`.node_steps`,
   :mod:`.node_primary` and :mod:`.node_sync`, and what several of them ask in
   :mod:`.node_rules`. The assigned one is promoted, and opens its epoch when enough of
   its synchronous set (:mod:`.sync_standbys`) has the promotion; the others follow
   (:mod:`.wal_history`) and keep WAL for each other (:mod:`.slots`).
5. Each proxy asks :mod:`.routing` where its clients go; while two servers claim the
   role (:mod:`.split_brain`), nowhere. The virtual address follows the lease
   (:mod:`.addresses`), those for replicas a placement (:mod:`.placing`).

What people ask for changes who is next, and when:

- a switchover or failover :mod:`.orders` (and :mod:`.loss`, what it could cost); for
  later, or a fence for as long as it stands :mod:`.schedules_and_fences`
- a restart or a fresh copy of one server :mod:`.restart_and_copy`
- no automatic action :mod:`.pause`; another profile :mod:`.policy`
- nodes that come and go :mod:`.membership`; a majority lost for ever
  :mod:`.disaster_recovery`
- settings of PostgreSQL :mod:`.settings`; an address elsewhere :mod:`.address_moves`

What is told of it: :mod:`.explain` in words, with its first line from
:mod:`.explain_verdict` and "if a node died now" from :mod:`.explain_what_if`;
:mod:`.role_history`, one record an epoch. :mod:`.fsm_check` asks every state of a node
(:mod:`.fsm_questions`) whether it has an exit (:mod:`.fsm_waits`).
"""
