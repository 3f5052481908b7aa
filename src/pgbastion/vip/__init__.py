"""The virtual address on the network: netlink, frames, probes and hooks."""
