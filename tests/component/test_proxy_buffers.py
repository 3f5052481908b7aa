"""What the kernel may keep for one side of a session."""

import socket

import pytest

from pgbastion.proxy.routes import DataPath, Limits
from pgbastion.proxy.sockets import RECEIVE_BYTES, tune
from support.proxy_lab import kernel_path_is_possible, raw_pair

pytestmark = [pytest.mark.anyio]
_SO_RCVBUFFORCE = 33


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.mark.skipif(not kernel_path_is_possible(), reason="this needs CAP_NET_ADMIN")
async def test_neither_side_of_a_session_may_keep_more_than_is_set() -> None:
    async with raw_pair(DataPath.USERSPACE) as pair:
        for end in (pair.relay.client, pair.relay.server):
            allowed = end.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            assert allowed == 2 * RECEIVE_BYTES  # socket(7): the kernel doubles it


class _Unprivileged(socket.socket):
    """A socket of a process without CAP_NET_ADMIN."""

    def setsockopt(self, *arguments: object) -> None:
        if arguments[1] == _SO_RCVBUFFORCE:
            raise PermissionError(1, "Operation not permitted")
        super().setsockopt(*arguments)  # type: ignore[call-overload]


def test_without_the_capability_the_kernels_own_bound_stands() -> None:
    with _Unprivileged() as connection:
        before = connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

        tune(connection, Limits())

        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == before
