"""Take the pictures of README from a sweep of the demo: the report is written again, and a headless Chromium photographs it.

python docs/pictures/make.py [SWEEP]     without SWEEP: the newest outputs/sweeps/*-bimodal, which `make demo` leaves
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

HERE = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTH, HEIGHT = 1280, 800


def newest() -> Path:
    """Return the newest sweep of the demo's first part."""
    sweeps = sorted((HERE.parents[1] / "outputs" / "sweeps").glob("*-bimodal"))
    if not sweeps:
        raise SystemExit("outputs/sweeps holds no sweep of the demo: run make demo first, or name a sweep")
    return sweeps[-1]


def browser() -> str:
    """Return the path of a Chromium."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise SystemExit(f"no browser is installed: install one of {', '.join(BROWSERS)}")
    return found


def photograph(page: Path, picture: Path, width: int, height: int) -> None:
    """Write the first screen of a page as a PNG of 128 colours."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-color-profile=srgb"]
    sizes = [f"--window-size={width},{height}", f"--screenshot={picture}"]
    subprocess.run([browser(), *flags, *sizes, page.as_uri()], check=True, capture_output=True, timeout=600)
    with Image.open(picture) as image:
        small = image.convert("RGB").quantize(128)
    small.save(picture, optimize=True)


def main() -> None:
    """Write the report of a sweep again, and take its picture."""
    sweep = Path(sys.argv[1]) if sys.argv[1:] else newest()
    with TemporaryDirectory() as folder:
        compare = [sys.executable, "-m", "gmu_lightning.compare", f"runs={sweep}", f"output={folder}/report"]
        subprocess.run(compare, check=True)
        photograph(Path(folder) / "report" / "report.html", HERE / "report.png", WIDTH, HEIGHT)
    print(f"{HERE / 'report.png'}: {(HERE / 'report.png').stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
