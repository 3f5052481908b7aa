"""The commands, a module for each concern; ``cli.app`` puts them together.

A module has ``commands``, a Typer application. What a command needs it imports when it
runs: ``version`` waits for nobody's libraries.
"""
