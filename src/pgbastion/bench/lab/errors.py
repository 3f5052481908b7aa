"""What can go wrong with the laboratory itself."""

from pgbastion.errors import PgBastionError


class LabError(PgBastionError):
    """The laboratory could not be built, or a cluster in it missed a bound."""


class CannotRun(PgBastionError):  # noqa: N818 - an outcome to report, not a failure
    """Something that this machine lacks is needed: reported as not run."""
