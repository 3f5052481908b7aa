"""Decisions: pure functions from what is observed to what to do, with reasons.

A failover, and where to read it:

1. The Raft leader asks :mod:`.cluster` whenever something changes. A holder that renews
   its lease is left alone. One that was silent for as long as any lease may last
   (:mod:`.lease`) is revoked; sooner if it gave the role back, or if somebody outside
   vouches that it is off (:mod:`.fencing`).
2. :mod:`.succession` has the servers cut themselves off from the old epoch and say what
   they have. :mod:`.survey` tells whether every acknowledged commit is among that, and
   who has it; :mod:`.candidates` whom of these an operator prefers. That one is
   assigned the next epoch.
3. :mod:`.apply` makes the next state of each command that is committed, on every node.
4. Each node asks :mod:`.node` what it is to do: its duty and what it finds there are a
   row of the table in :mod:`.transitions`, whose steps are in :mod:`.node_steps` and
   :mod:`.node_primary`. The assigned one is promoted, and opens its epoch when enough
   of its synchronous set (:mod:`.sync_standbys`) has the promotion; the others follow.
5. Each proxy asks :mod:`.routing` where its clients go.

What people ask for changes who is next, and when: :mod:`.orders`, :mod:`.work`,
:mod:`.wishes`, :mod:`.pause`. :mod:`.explain` tells all of it in words, and
:mod:`.enumerating` asks every state of a node whether it has an exit.
"""
