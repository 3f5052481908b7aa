"""A laboratory of faults: real nodes, real PostgreSQL, a checked history.

The nodes are seen as an operator sees them, through the command line, the API, SQL,
signals and the network. Nothing here imports the daemon's own parts, so a mistake of
theirs cannot hide itself.
"""
