"""The proxy: clients' connections to the primary and to the standbys."""
