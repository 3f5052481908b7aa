"""What the daemon leaves to the collector of garbage."""

import gc

from pgbastion.daemon import spare_the_collector


def test_collections_look_only_at_what_was_made_since_the_start() -> None:
    before = len(gc.get_objects())
    try:
        spare_the_collector()

        assert gc.get_freeze_count() > before / 2
        assert len(gc.get_objects()) < before / 2
    finally:
        gc.unfreeze()
