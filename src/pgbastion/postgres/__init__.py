"""The PostgreSQL adapter: programs, files and connections of one server.

It judges nothing: every operation is asked for by a decision, is idempotent, has a
deadline, and either did what its name says or raises `PostgresError`. `render`,
`parse`, `rejoin`, `scram` and `settings` are pure.

- The whole as decisions see it: :mod:`.instance`.
- Is it well? :mod:`.probe` asks (:mod:`.hello` a new connection, :mod:`.disk` the
  disks), :mod:`.trouble` tells what is wrong; beside that :mod:`.side_queries`,
  :mod:`.vitals`, :mod:`.fitness`, :mod:`.settings_state`.
- Running servers: :mod:`.primary` (:mod:`.sync_change`, :mod:`.slots`,
  :mod:`.planned_end`), :mod:`.standby`, over :mod:`.connection`.
- Stopped ones: :mod:`.offline`, :mod:`.shutdown_record`, :mod:`.directory`,
  :mod:`.history`, and our :mod:`.mark` in the directory.
- A standby again: :mod:`.rejoin` is the table, :mod:`.rejoin_ladder` looks and
  takes its steps as :mod:`.rejoining` is asked for them; :mod:`.source` runs pg_rewind
  and pg_basebackup, :mod:`.staging` swaps directories (:mod:`.wal_place`: that of WAL),
  :mod:`.archive` saves WAL first.
- The first server: :mod:`.bootstrap` makes it; one that is there already is looked at
  (:mod:`.unmarked_data`) and taken over by :mod:`.takeover`, without a stop by
  :mod:`.takeover_running`.
- The guard: :mod:`.guard_link`, over :mod:`.guard_client` (:mod:`.guard_messages`);
  :mod:`.guard_spawn` starts it, :mod:`.guard_writer` makes this daemon the one that
  it listens to.
- Files: :mod:`.layout`, :mod:`.config_files`, :mod:`.files`. Programs:
  :mod:`.programs`. Other settings are judged by :mod:`.guc` and :mod:`.setting_trial`.
"""
