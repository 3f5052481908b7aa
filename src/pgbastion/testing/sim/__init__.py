"""Whole clusters in one thread, with seeded time, networks, disks and servers.

What decides is the real thing: the engine's core, the host, the observer, the
executor and the pure decisions of every node. What they look at and act on is a
model of PostgreSQL, of the guard, of disks, clocks and links.
"""
