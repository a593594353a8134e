"""Takes the pictures of the page that the README shows, of a service that runs.

python -m tests.serving.screenshots http://127.0.0.1:8000/ recipes/pictures
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

from PIL import Image

from tests.serving.browser import chromium

# Name: the state, width and height, and the colours.
SHOTS = {
    "search": ("?q=a+red+striped+cushion&index=trained", 1280, 800, "light"),
    "compare": ("?q=blue+floral+vase&index=trained&versus=untouched&weight=1", 1280, 800, "light"),
    "phone": ("?q=green+lamp&index=trained", 390, 800, "dark"),
}


def main(address: str, out: Path) -> None:
    """Writes a JPEG for each shot."""
    out.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        for name, (state, width, height, scheme) in SHOTS.items():
            size = {"width": width, "height": height}
            page = browser.new_page(viewport=size, color_scheme=scheme, device_scale_factor=1)
            page.goto(address + state, wait_until="networkidle")
            page.wait_for_selector("#results[aria-busy=false] .card")
            page.wait_for_timeout(800)
            shot = Image.open(BytesIO(page.screenshot())).convert("RGB")
            shot.save(out / f"page_{name}.jpg", quality=85, optimize=True)
            page.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
