"""Consensus: the embedded Raft engine and its interface to the rest."""
