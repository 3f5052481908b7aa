"""Nothing but the platform, and the two parts it may be without, names Linux's own."""

import ast
import functools
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "pgbastion"
# Names of the standard library that no other system has.
LINUX_ONLY = {
    "AF_NETLINK",
    "AF_PACKET",
    "CLOCK_BOOTTIME",
    "EPOLLIN",
    "SO_PEERCRED",
    "TCP_INFO",
    "TCP_KEEPIDLE",
    "TCP_USER_TIMEOUT",
    "epoll",
    "eventfd",
    "pidfd_open",
    "pidfd_send_signal",
    "pipe2",
    "setns",
}
# Where they may stand: `has_addresses`, `has_epoll` and `has_tcp_info` keep what is no
# part of the platform from being used elsewhere.
ALLOWED = (
    "bench/",
    "platform/",
    "proxy/epoll_poller.py",
    "proxy/stalled_readers.py",
    "proxy/tcp_info.py",
    "testing/",
    "vip/",
)
# They look who holds a port: where there is no /proc, nobody is named.
PROC_ALLOWED = (*ALLOWED, "demo/addresses.py", "proxy/sockets.py")
FILES = sorted(str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py"))


def linux_names(tree: ast.AST) -> set[str]:
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in LINUX_ONLY
    }


def proc_paths(tree: ast.AST) -> set[str]:
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith("/proc")
    }


@functools.cache
def found(name: str) -> tuple[set[str], set[str]]:
    text = (SOURCE / name).read_text(encoding="utf-8")
    if not any(word in text for word in ("/proc", *LINUX_ONLY)):
        return set(), set()
    tree = ast.parse(text)
    return linux_names(tree), proc_paths(tree)


def test_no_other_module_names_what_linux_alone_has() -> None:
    named = {
        name: sorted(names | paths)
        for name in FILES
        for names, paths in [found(name)]
        if (names and not name.startswith(ALLOWED))
        or (paths and not name.startswith(PROC_ALLOWED))
    }

    assert named == {}


@pytest.mark.parametrize("folder", [*ALLOWED, *PROC_ALLOWED[-2:]])
def test_no_exception_is_needless(folder: str) -> None:
    assert any(any(found(name)) for name in FILES if name.startswith(folder))
