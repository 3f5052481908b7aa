"""Take the README's pictures of the dashboard from a demonstration that runs.

One fault is made under a write load, so that the history has something to show.
Needs Chromium and its driver (Debian: chromium, chromium-driver).
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from pgbastion.bench.lab.settings import API_PORT
from pgbastion.bench.lab.workload import Writers
from pgbastion.demo.faults import FAULTS
from pgbastion.demo.stage import READY_S, Stage
from support.browser import DESKTOP, PHONE, browser

PICTURES: Final = Path(__file__).resolve().parent.parent / "docs" / "images"
LOAD_S: Final = 20.0
SETTLED_S: Final = 15.0
SCHEMES: Final = {
    "dashboard-light": ("light", DESKTOP),
    "dashboard-dark": ("dark", DESKTOP),
    "dashboard-phone": ("light", PHONE),
}


def main() -> None:
    """Run the demonstration, hit its primary, and take the pictures."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with Stage(profile="normal") as stage:
        stage.start()
        primary = str(stage.wait_complete(READY_S).primary)
        stage.make_tables(primary)
        place, proxies = stage.write_load
        with Writers(place, proxies), tempfile.TemporaryDirectory() as scratch:
            time.sleep(SETTLED_S)
            with FAULTS["postmaster"].inject(stage, primary):
                stage.wait_complete(READY_S)
            node = stage.nodes["n1"].address
            for name, (scheme, size) in SCHEMES.items():
                _take(f"http://{node}:{API_PORT}/ui", name, scheme, size, Path(scratch))


def _take(
    address: str, name: str, scheme: str, size: tuple[int, int], scratch: Path
) -> None:
    with browser(scratch / name, size) as page:
        wish = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
        page.get(address)
        time.sleep(LOAD_S)
        page.save_screenshot(str(PICTURES / f"{name}.png"))
        print(PICTURES / f"{name}.png")


if __name__ == "__main__":
    main()
