"""The REST API: reads a request, calls one function, renders the answer.

Everything that is read is answered from memory. What changes something is handed to
:class:`~pgbastion.api.ports.Commands`.
"""
