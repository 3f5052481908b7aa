"""The proxy: clients' connections to the primary and to the standbys.

- :mod:`.listener` accepts clients at its :mod:`.listening_sockets` and owns all that
  serves them. :mod:`.client_handshake` understands what a client says first
  (:mod:`.wire`), :mod:`.opening` finds it a server or a refusal (:mod:`.refusals`),
  and :mod:`.lingering_close` sees that a last message arrives.
- :mod:`.switchboard` knows to which server each port leads, and ends the sessions that
  may no longer be; the routes it is given are values of :mod:`.routes`.
- Bytes move in user space (:mod:`.relay`) or, for busy sessions, in the kernel
  (:mod:`.kernel`). :mod:`.stalled_readers` tells stalled readers from dead peers.
- :mod:`.cancels` takes cancel requests to their session, :mod:`.draining` takes the
  proxy out of service.
"""
