"""What the daemon leaves to the collector of garbage."""

import gc
from pathlib import Path

import pytest

from pgbastion.daemon import run, spare_the_collector
from pgbastion.errors import ConfigError


def test_collections_look_only_at_what_was_made_since_the_start() -> None:
    before = len(gc.get_objects())
    try:
        spare_the_collector()

        assert gc.get_freeze_count() > before / 2
        assert len(gc.get_objects()) < before / 2
    finally:
        gc.unfreeze()


def test_a_daemon_whose_modules_were_read_without_collections_has_them_again(
    tmp_path: Path,
) -> None:
    gc.disable()
    try:
        with pytest.raises(ConfigError):
            run(tmp_path / "missing.yaml")

        assert gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
