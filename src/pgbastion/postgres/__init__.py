"""The PostgreSQL adapter: programs, files and connections of one server.

It judges nothing: every operation is asked for by a decision, is idempotent, has a
deadline, and either did what its name says or raises `PostgresError`. `render`,
`parse`, `rejoin`, `scram` and `settings` are pure.
"""
