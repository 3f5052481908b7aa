"""Wall-clock times as the log has them: words that are compared and moved."""

from datetime import datetime, timedelta


def later(at: str, ms: int) -> str:
    """Return a wall-clock time ``ms`` milliseconds after another one, in its form.

    What is not a time stays as it is: text in the log may be anything.
    """
    try:
        moved = datetime.fromisoformat(at) + timedelta(milliseconds=ms)
    except (ValueError, OverflowError):
        return at
    return moved.isoformat(timespec="milliseconds")
