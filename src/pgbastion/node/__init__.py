"""One node of the cluster: these modules alone know all parts.

- Its life: :mod:`.build` and :mod:`.parts` make the parts, :mod:`.running` joins and
  runs them, :mod:`.membership` makes it a member, :mod:`.reloading` takes a changed
  file over. :mod:`.ending` sees to its clients and :mod:`.retiring` to its PostgreSQL
  before it ends; :mod:`.socket_passing` passes the listening sockets on.
- What is seen of it, in :mod:`.front`: the proxy (:mod:`.proxying`), API and metrics
  (:mod:`.snapshots` of what it knows, :mod:`.commands` for what may be changed).
  Addresses: :mod:`.addresses`, :mod:`.replica_addresses`.
- What operators ask for goes into the log by :mod:`.proposing`: :mod:`.ordering`
  (switchover, failover), :mod:`.schedules_and_fences`, :mod:`.restart_and_copy`,
  :mod:`.members`, :mod:`.replication`, :mod:`.profile`, :mod:`.settings_change`.
  Without a daemon: :mod:`.disaster_recovery`.
- Between nodes: :mod:`.peer_requests`, :mod:`.forwarding`, :mod:`.cancels`,
  :mod:`.gossip`, :mod:`.certificates`.
- What is kept as it should be: the lease (:mod:`.renewing`), :mod:`.settings`,
  :mod:`.slot_carrying`, :mod:`.late_archiving`, the timings of the profile
  (:mod:`.pacing`, :mod:`.timings`), the words of :mod:`.page`;
  :mod:`.split_watch` looks for second primaries, :mod:`.fencing` runs the program that
  switches a node off.
- What is told: :mod:`.notifications`, to followers, webhooks (:mod:`.webhooks`) and a
  program (:mod:`.callbacks`); :mod:`.tracing` (:mod:`.otel`).
"""
