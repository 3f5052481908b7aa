"""Fakes of every port, builders of views, and stand-ins of servers."""
