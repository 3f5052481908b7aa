"""Which data path is in use, and why."""

from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping

from pgbastion.errors import ProxyError
from pgbastion.platform.choice import current
from pgbastion.proxy.kernel.path import KernelPath
from pgbastion.proxy.kernel.self_test import prove
from pgbastion.proxy.poller import Poller
from pgbastion.proxy.routes import DataPath, Limits


class DataPathChoice:
    """Begins with user space, and goes over to the kernel once that is proven."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        poller: Poller,
        wanted: DataPath,
        limits: Limits,
        on_event: Callable[[str, Mapping[str, object]], None],
    ) -> None:
        self._loop = loop
        self._poller = poller
        self._wanted = wanted
        self._limits = limits
        self._on_event = on_event
        self.current = DataPath.USERSPACE
        self.reason = "it is configured"
        self.kernel: KernelPath | None = None

    async def settle(self) -> None:
        """Set the kernel path up and prove it, unless user space is configured."""
        if not current().has_kernel_path:
            self.reason = f"the platform {current().name} has no kernel path"
        elif self._wanted is not DataPath.USERSPACE:
            self.reason = "the kernel path is being tried out"
            await self._try_kernel()
        self._on_event(
            "proxy_data_path", {"path": self.current.value, "reason": self.reason}
        )

    def close(self) -> None:
        """Give the kernel path up; no session uses it any more."""
        if self.kernel is not None:
            self.kernel.close()
            self.kernel = None

    async def _try_kernel(self) -> None:
        kernel = None
        try:
            kernel = KernelPath(self._loop, self._poller, self._limits.connections_max)
            await prove(kernel, self._poller, self._limits)
        except ProxyError as exc:
            if kernel is not None:
                kernel.close()
            self.reason = str(exc)
            if self._wanted is DataPath.KERNEL:
                self._on_event("proxy_kernel_path_failed", {"reason": self.reason})
            return
        except BaseException:
            if kernel is not None:
                kernel.close()
            raise
        self.kernel = kernel
        self.current = DataPath.KERNEL
        self.reason = "the self-test passed"
