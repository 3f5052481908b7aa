"""Who is whose child, where the system tells only parents."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def parents_map(
    everybody: list[int], parent_of: "Callable[[int], int | None]"
) -> "Callable[[int], list[int]]":
    """Ask every process for its parent; return what answers with the children."""
    below: dict[int, list[int]] = {}
    for pid in everybody:
        parent = parent_of(pid)
        if parent is not None:
            below.setdefault(parent, []).append(pid)
    return lambda pid: below.get(pid, [])
