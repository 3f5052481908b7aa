"""Joins decisions and the world: observes, decides, acts, one pass at a time."""
