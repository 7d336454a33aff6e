"""Send a song through a page of `earvae export --web` in Chromium; pictures, and what came out.

    python tools/drive_page.py page/ song.flac --runner onnx/runner.py --output screenshots

Serves the folder as `earvae export --web page/ --serve` does, and says how far the samples are from
those of the Python runner, which requests left the folder, and how long it took. Needs playwright
and a Chromium (Debian: apt-get install chromium).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from earvae.export.web.serve import server

VIEWS = {
    "desktop": {"viewport": {"width": 1180, "height": 1320}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1180, "height": 1320}, "color_scheme": "dark"},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "color_scheme": "light",
        "device_scale_factor": 2,
        "is_mobile": True,
        "has_touch": True,
    },
}
ARGUMENTS = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
SOFTWARE_GPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path, help="the folder")
    parser.add_argument("song", type=Path)
    parser.add_argument("--runner", type=Path, help="runner.py of `earvae export --onnx`")
    parser.add_argument("--output", type=Path, help="folder of pictures")
    parser.add_argument("--views", nargs="+", choices=VIEWS, default=["desktop"])
    parser.add_argument("--backend", choices=("wasm", "webgpu"), default="wasm")
    given = parser.parse_args()
    served = server(given.page, port=0)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    home = f"http://localhost:{served.server_port}/"
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as place:
        chromium = shutil.which("chromium") or shutil.which("chrome")
        extra = SOFTWARE_GPU if given.backend == "webgpu" else []
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS + extra)
        for view in given.views:
            page = browser.new_page(**VIEWS[view])
            page.on("console", lambda message: print(f"console {message.type}: {message.text}"))
            page.on("pageerror", lambda error: print(f"error: {error}"))
            asked: list[str] = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(f"{home}?backend={given.backend}")
            drive(page, given.song, given.output, view)
            away = [url for url in asked if not url.startswith((home, f"blob:{home}", "data:"))]
            print(f"{view}: {len(asked)} requests, {len(away)} to elsewhere {away or ''}")
            print(f"{view}: {page.locator('#speed').inner_text()}")
            if given.runner:
                compare(page, given.runner, given.song, Path(place))
            page.close()
        browser.close()


def drive(page: Page, song: Path, output: Path | None, view: str) -> None:
    """Choose the song, wait for the reconstruction, play it, take pictures."""

    def picture(name: str, whole: bool = False) -> None:
        if output:
            output.mkdir(parents=True, exist_ok=True)
            path = output / f"web_{view}{name}.png"
            page.screenshot(path=path, full_page=whole)
            Image.open(path).convert("RGB").quantize(192).save(path, optimize=True)

    picture("_empty")
    page.locator("#file").set_input_files(song)
    page.locator("#progress").wait_for()  # not by a script: the page's policy forbids eval
    page.wait_for_timeout(1500)
    picture("_working")
    page.locator("#progress").wait_for(state="hidden", timeout=600_000)
    if page.locator("#failure").is_visible():
        sys.exit(f"the page says: {page.locator('#failure').inner_text()}")
    page.evaluate("earvae.page.player.seek(earvae.page.player.duration * 0.4)")
    page.keyboard.press(" ")
    page.locator("#play", has_text="Pause").wait_for()
    page.wait_for_timeout(500)
    picture("")
    picture("_whole", whole=True)
    page.keyboard.press(" ")


def compare(page: Page, runner: Path, song: Path, place: Path) -> None:
    """The page's WAV beside the runner's, sample by sample."""
    with page.expect_download() as waiting:
        page.locator("#save-audio").click()
    waiting.value.save_as(place / "page.wav")
    command = [sys.executable, runner, "reconstruct", song, place / "runner.wav"]
    subprocess.run(command, check=True, capture_output=True)
    ours = soundfile.read(place / "page.wav", dtype="float32")[0]
    theirs = soundfile.read(place / "runner.wav", dtype="float32")[0]
    far = np.abs(ours - theirs).max() if ours.shape == theirs.shape else np.inf
    print(f"{ours.shape} and {theirs.shape} samples, at most {far:.1e} apart")


if __name__ == "__main__":
    main()
