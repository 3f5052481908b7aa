"""One pass: look, decide, act, tell. Joins the decisions and the world.

1. Look: :mod:`.observer` keeps what was last seen of PostgreSQL, :mod:`.host` feeds the
   log to ``apply`` and keeps every node's newest report; :mod:`.sight` makes one
   picture of it all.
2. Decide: :mod:`.loop` asks `pgbastion.control`, for the node and, on the Raft leader,
   for the cluster. :mod:`.recorder` keeps what was decided, and on what.
3. Act: :mod:`.runner` runs one sequence at a time, :mod:`.executor` each of its
   actions, by the adapters behind :mod:`.ports`; :mod:`.job` what takes long.
4. Tell: :mod:`.reporting` sends this node's report to all others.

What one look cannot see is remembered in :mod:`.client_admission`, :mod:`.flushing`,
:mod:`.outages`, :mod:`.split` and :mod:`.warnings`.

Between nodes (:mod:`.messages` has the encodings): :mod:`.survey` asks who has which
commits, :mod:`.cutter` answers it; :mod:`.joining` makes a node a member,
:mod:`.member_admission` is the others' side of that, :mod:`.standing` sees whether it
still is one; :mod:`.placing` says where the addresses for replicas are.
"""
