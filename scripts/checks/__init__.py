"""The parts of run_checks.py."""
