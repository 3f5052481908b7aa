"""pgbastion keeps a PostgreSQL cluster available: one daemon a node."""
