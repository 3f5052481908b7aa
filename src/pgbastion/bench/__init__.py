"""Programs that measure the daemon from outside and print tables."""
