"""Take the pictures of README and docs from a sweep of the demo, by a headless Chromium: its report, and the page of a run.

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
    reduce(picture)


def reduce(picture: Path) -> None:
    """Reduce a PNG to 128 colours."""
    with Image.open(picture) as image:
        small = image.convert("RGB").quantize(128)
    small.save(picture, optimize=True)


def photograph_app(run: Path, picture: Path, width: int) -> None:
    """Write the page to play with as a PNG, after a click on its first example and on the button that explains it."""
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "gmu_lightning.app", f"run={run.absolute()}", "port=0", "examples=3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=run.parents[3]) as served:
        try:
            assert served.stdout is not None
            address = served.stdout.readline().split()[0]
            with sync_playwright() as playwright:
                opened = playwright.chromium.launch(executable_path=browser(), args=["--no-sandbox"])
                page = opened.new_page(viewport={"width": width, "height": 400})
                page.goto(address)
                page.locator("#examples button.gallery-item").first.click()
                page.locator("li[data-genre]").first.wait_for()
                page.get_by_role("button", name="Explain").click()
                page.locator(".pieces rect").first.wait_for()
                page.mouse.move(0, 0)
                page.wait_for_timeout(1000)  # until colours have faded in
                page.screenshot(path=picture, full_page=True)
                opened.close()
        finally:
            served.terminate()
    with Image.open(picture) as image:  # small areas need their own colours
        small = image.convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE)
    small.save(picture, optimize=True)


def main() -> None:
    """Write the report of a sweep again, and take its picture and that of the page of one of its runs."""
    sweep = Path(sys.argv[1]) if sys.argv[1:] else newest()
    with TemporaryDirectory() as folder:
        compare = [sys.executable, "-m", "gmu_lightning.compare", f"runs={sweep}", f"output={folder}/report"]
        subprocess.run(compare, check=True)
        photograph(Path(folder) / "report" / "report.html", HERE / "report.png", WIDTH, HEIGHT)
    photograph_app(next(iter(sorted(sweep.glob("gmu_original-text+image-*")))), HERE / "app.png", WIDTH)
    for picture in (HERE / "report.png", HERE / "app.png"):
        print(f"{picture}: {picture.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
