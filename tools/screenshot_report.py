"""Pictures of a listening report on a desktop, light and dark, and on a phone.

python tools/screenshot_report.py OUT/report --output screenshots

Needs playwright and a Chromium (Debian: apt-get install chromium).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

VIEWS = {
    "desktop_light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "desktop_dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "color_scheme": "light",
        "device_scale_factor": 2,
        "is_mobile": True,
        "has_touch": True,
    },
}
ARGUMENTS = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, help="folder that holds index.html")
    parser.add_argument("--output", type=Path, default=Path("screenshots"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    index = (arguments.report / "index.html").resolve()
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        for view in VIEWS:
            shoot(browser, view, index, arguments.output)
        browser.close()


def shoot(browser: Browser, view: str, index: Path, output: Path) -> None:
    """The first page while it plays, a track's page with its pictures, and both blind tests."""
    page = browser.new_page(**VIEWS[view])
    page.on("console", lambda message: print(f"{view}: console {message.type}: {message.text}"))
    page.on("pageerror", lambda error: print(f"{view}: error: {error}"))

    def picture(name: str) -> None:
        path = output / f"{view}_{name}.png"
        page.screenshot(path=path)
        print(path)

    page.goto(index.as_uri())
    listen(page)
    picture("index")
    page.goto((index.parent / "mushra.html").as_uri())
    mushra(page, picture)
    page.goto(index.as_uri())
    page.locator("#by-1 tbody a").first.click()
    listen(page)
    picture("track")
    page.evaluate("document.querySelector('#stereo-title').scrollIntoView()")
    page.wait_for_timeout(400)  # pictures further down are loaded when they come near
    picture("stereo")
    page.evaluate("document.querySelector('#spectra-title').scrollIntoView()")
    page.wait_for_timeout(400)
    picture("spectrograms")
    page.evaluate("scrollTo(0, 0)")
    blind_test(page, picture)
    page.close()


def listen(page: Page) -> None:
    """Play the first codec from the middle on."""
    page.wait_for_function("window.earvae && earvae.page && earvae.page.sounds.has(1)")
    page.evaluate("earvae.page.player.seek(earvae.page.player.duration * 0.4)")
    page.keyboard.press("2")
    page.keyboard.press(" ")
    page.wait_for_function("earvae.page.player.playing")
    page.wait_for_timeout(1200)


def mushra(page: Page, picture) -> None:
    """A test that is set up, and its first track with all versions but one rated."""
    picture("mushra_setup")
    page.locator("#setup button[type=submit]").click()
    page.wait_for_selector(".rating")
    sliders = page.locator(".rating input")
    for place in range(sliders.count() - 1):
        sliders.nth(place).fill(str(25 + 70 * place // sliders.count()))
    page.locator("#next").click()
    picture("mushra_track")


def blind_test(page: Page, picture) -> None:
    """Eight answers, some of them right, in a test that is set up, run and read."""
    page.locator("#abx-open").click()
    page.locator("#abx-count").select_option("8")
    picture("abx_setup")
    page.locator("#abx-setup button[type=submit]").click()
    page.wait_for_function("earvae.page.abx.running")
    page.wait_for_timeout(300)
    picture("abx_trial")
    for number in range(8):
        right = page.evaluate("earvae.page.abx.test.x")
        wrong = {"A": "B", "B": "A"}[right]
        page.locator(f"[data-answer={wrong if number == 2 else right}]").click()
    page.wait_for_function("!earvae.page.abx.running")
    picture("abx_result")


if __name__ == "__main__":
    main()
