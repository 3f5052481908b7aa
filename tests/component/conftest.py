"""What tests of one adapter with its real peer may ask for."""

import pytest

from pgbastion.proxy.routes import DataPath
from support.proxy_lab import kernel_path_is_possible


@pytest.fixture(params=[DataPath.USERSPACE, DataPath.KERNEL])
def data_path(request: pytest.FixtureRequest) -> DataPath:
    """What moves the bytes."""
    if request.param is DataPath.KERNEL and not kernel_path_is_possible():
        pytest.skip("the kernel data path needs CAP_BPF and CAP_NET_ADMIN")
    return DataPath(request.param)
