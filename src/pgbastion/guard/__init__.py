"""The guard: the postmaster's parent, which ends it when the lease ran out.

A process of its own with one thread. It imports the standard library and this package
only, opens no file on the data directory's file system, and goes on when the daemon
dies. PROCESS.md says who starts, stops and outlives whom; LEASE.md, section 3, when the
guard acts.
"""
