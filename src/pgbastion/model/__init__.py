"""Values that every part speaks in: identities, WAL positions, replicated state, views.

Pure: nothing here does I/O, reads a clock or changes an argument.
"""
