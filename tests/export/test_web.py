"""The page of `earvae export --web`: its folder, and in Chromium what it computes and shows."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import socket
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from typer.testing import CliRunner

pytest.importorskip("onnx", reason="ONNX export needs the package onnx")

from earvae.cli.main import app  # noqa: E402
from earvae.errors import EarvaeError  # noqa: E402
from earvae.export.web import POLICY, export_web, onnxruntime_web  # noqa: E402
from earvae.export.web.onnxruntime_web import FILES, Runtime, RuntimeMissing  # noqa: E402
from earvae.export.web.serve import server  # noqa: E402
from earvae.latents import file as latent_file  # noqa: E402
from tests.small import CLIPS, model, two_snakes  # noqa: E402

EMPTY = Runtime("0", {name: b"" for name in FILES})


# ------------------------------------------------------------------------------- the folder


def test_folder_holds_all_that_it_names(tmp_path):
    files = export_web(two_snakes(), tmp_path, EMPTY)
    names = {path.name for path in tmp_path.iterdir()}
    assert {path.name for path in files} == names - {".earvae-export"}
    page = (tmp_path / "index.html").read_text("utf-8")
    assert POLICY in page and "$" not in page
    named = set(re.findall(r'(?:src|href)="([^"#:]+)"', page))
    for script in tmp_path.glob("*.js"):
        named |= set(re.findall(r"from '\./([^']+)'", script.read_text("utf-8")))
    about = json.loads((tmp_path / "model.json").read_text())
    named |= {part["file"] for part in about["parts"].values()}
    named |= {name for files in about["onnxruntime"].values() for name in files.values()}
    assert named and named <= names
    for part in about["parts"].values():
        assert (tmp_path / part["file"]).stat().st_size == part["bytes"]
    assert not list(tmp_path.glob("*.mjs"))  # which many servers take for no script


def test_another_model_takes_the_place_of_the_first(tmp_path):
    export_web(model("tiny44k"), tmp_path, EMPTY)
    assert (tmp_path / "transformer.onnx").exists()
    export_web(two_snakes(), tmp_path, EMPTY)
    assert not (tmp_path / "transformer.onnx").exists()
    assert json.loads((tmp_path / "model.json").read_text())["model"] == two_snakes().identity


def test_files_of_others_are_refused(tmp_path):
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(EarvaeError, match="index.html: is there already"):
        export_web(two_snakes(), tmp_path, EMPTY)
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_weights_take_half_the_place_only_where_that_loses_nothing(tmp_path):
    vae = two_snakes()
    weight = next(p for p in vae.decoder.parameters() if p.ndim > 1 and p.requires_grad)
    sizes = []
    for name in ("as it is", "half"):
        export_web(vae, tmp_path / name, EMPTY, half=name == "half")
        sizes.append((tmp_path / name / "decoder.onnx").stat().st_size)
    assert weight.abs().max() > 0 and sizes[1] < sizes[0]


# ------------------------------------------------------------------------- ONNX Runtime Web


def test_without_npm_a_line_says_what_to_do(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeMissing, match="npm, which is not installed; or give its files with"):
        onnxruntime_web.find()


@pytest.mark.skipif(os.name == "nt", reason="needs a script that runs by its first line")
def test_npms_reason_is_in_the_line(tmp_path, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text(
        "#!/bin/sh\necho 'npm error code X' >&2\necho 'npm error Y, reason: Z' >&2\nexit 1"
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeMissing, match="npm fails: Y, reason: Z; or give its files"):
        onnxruntime_web.find()


def test_an_archive_with_another_hash_is_refused(tmp_path):
    (tmp_path / "some.tgz").write_bytes(b"other")
    with pytest.raises(RuntimeMissing, match="some.tgz: is not onnxruntime-web@"):
        onnxruntime_web.find(tmp_path / "some.tgz")


def test_a_folder_of_the_package_will_do(tmp_path):
    with pytest.raises(EarvaeError, match="ort"):
        onnxruntime_web.find(tmp_path)
    (tmp_path / "dist").mkdir()
    for name in FILES:
        (tmp_path / "dist" / name).write_bytes(name.encode())
    (tmp_path / "package.json").write_text('{"version": "1.31.0"}')
    found = onnxruntime_web.find(tmp_path)
    assert found.version == "1.31.0" and found.files == {name: name.encode() for name in FILES}


# ------------------------------------------------------------------------------ the command


def command(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def test_command_writes_the_folder(tmp_path):
    two_snakes().save_pretrained(tmp_path / "ours")
    for name in FILES:
        (tmp_path / name).write_bytes(b"")
    done = command(
        "--web", tmp_path / "page", "--weights", tmp_path / "ours", "--onnxruntime-web", tmp_path
    )
    assert done.exit_code == 0, done.output
    assert two_snakes().identity in done.stdout and (tmp_path / "page" / "index.html").exists()


@pytest.mark.parametrize("option", [["--serve"], ["--onnxruntime-web", "x"]])
def test_what_belongs_to_the_page_needs_it(option):
    done = command("--onnx", "x", *option)
    assert done.exit_code == 2 and f"{option[0]} belongs to --web" in done.stderr


@pytest.fixture(scope="module")
def serve():
    """folder → the address at which it is served."""
    running = []

    def start(folder: Path) -> str:
        running.append(server(folder, port=0))
        threading.Thread(target=running[-1].serve_forever, daemon=True).start()
        return f"http://localhost:{running[-1].server_port}/"

    yield start
    for each in running:
        each.shutdown()
        each.server_close()


def test_server_gives_threads_and_types(tmp_path, serve):
    (tmp_path / "a.js").write_text("1")
    with urllib.request.urlopen(serve(tmp_path) + "a.js") as answer:
        assert answer.headers["Content-Type"] == "text/javascript"
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert answer.headers["Content-Security-Policy"] == POLICY


def test_server_takes_another_port_where_one_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with server(tmp_path, number) as other:
            assert other.server_port != number


# ------------------------------------------------------------------------------ in Chromium


@pytest.fixture(scope="module")
def chromium():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if not path:
        pytest.skip("chromium is not installed")
    arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def runtime():
    try:
        return onnxruntime_web.find()
    except RuntimeMissing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def made(exported, runtime, tmp_path_factory):
    """The page of a small model that decodes with a transformer, and the runner of it."""
    vae, runner, _ = exported("tiny44k")
    folder = tmp_path_factory.mktemp("page")
    export_web(vae, folder, runtime)
    return folder, runner


@pytest.fixture(scope="module")
def opened(chromium, made, serve):
    """The page in a window of a phone's size, and complaints: also of requests beyond the folder.
    All songs go through it one after the other, as a visitor's do."""
    complaints: list[str] = []
    home = serve(made[0])
    context = chromium.new_context(viewport={"width": 390, "height": 844})
    context.set_default_timeout(120_000)  # of a busy machine
    page = context.new_page()
    page.on("console", lambda m: m.type in ("error", "warning") and complaints.append(m.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))

    def watch(request) -> None:
        if not request.url.startswith((home, f"blob:{home}", "data:")):
            complaints.append(f"request: {request.url}")

    context.on("request", watch)
    page.goto(f"{home}?backend=wasm")
    yield page, complaints
    context.close()


@pytest.fixture
def visit(opened):
    """The page; complaints fail the test."""
    page, complaints = opened
    yield page
    assert complaints == []


def song(path: Path, seconds: float = 6.0, rate: int = 44_100, channels: int = 2) -> np.ndarray:
    """A stretch of real music, ``[samples, channels]``, as a file of 16 bits."""
    audio, found = soundfile.read(
        CLIPS / "automat.flac", dtype="float32", stop=int(seconds * 44_100)
    )
    audio = audio[:, :channels]
    if rate != found:
        audio = soxr.resample(audio, found, rate)
    soundfile.write(path, audio, rate, subtype="PCM_16")
    return soundfile.read(path, dtype="float32", always_2d=True)[0]


def send(page, path: Path) -> None:
    page.locator("#file").set_input_files(path)
    page.locator("#result .later").first.wait_for()


def saved(page, button: str, place: Path) -> Path:
    with page.expect_download() as waiting:
        page.locator(button).click()
    path = place / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def test_a_song_gives_the_runners_samples_and_latents(visit, made, tmp_path):
    audio = song(tmp_path / "song.flac")
    runner = made[1]
    send(visit, tmp_path / "song.flac")

    heard, rate = soundfile.read(saved(visit, "#save-audio", tmp_path), dtype="float32")
    expected = runner.reconstruct(audio.T[None])[0].T
    assert rate == 44_100 and heard.shape == expected.shape
    assert np.abs(heard - expected).max() <= 1e-4 * max(1, np.abs(expected).max())

    path = saved(visit, "#save-latents", tmp_path)
    assert path.name == "song.safetensors"
    from earvae.export.runner import encode_file

    encode_file(runner, str(tmp_path / "song.flac"), str(tmp_path / "own.safetensors"), 430)
    found, own = latent_file.read(path), latent_file.read(tmp_path / "own.safetensors")
    assert found.metadata == own.metadata
    np.testing.assert_allclose(found.values, own.values, atol=1e-4 * np.abs(own.values).max())
    header = [
        p.read_bytes()[8:900].partition(b"latents")[0] for p in (path, tmp_path / "own.safetensors")
    ]
    assert header[0] == header[1]
    play_and_switch(visit)


def play_and_switch(visit) -> None:
    """Both versions sound, and change at the same place."""
    visit.keyboard.press(" ")
    visit.locator("#play", has_text="Pause").wait_for()
    positions = "[earvae.page.player.position(), earvae.page.player.heard]"
    assert visit.evaluate(positions)[1] == 1
    visit.keyboard.press("r")
    visit.locator("[data-version='0'][aria-pressed=true]").wait_for()
    before, heard = visit.evaluate(positions)
    assert heard == 0 and 0 <= before < 6
    visit.keyboard.press(" ")
    visit.locator("[data-signal=side]").click()
    assert visit.locator("#result-side").is_visible() and visit.locator("#result-mid").is_hidden()


@pytest.mark.long
def test_mono_at_another_rate_stays_mono_and_says_so(visit, tmp_path):
    audio = song(tmp_path / "song.wav", seconds=2, rate=48_000, channels=1)
    send(visit, tmp_path / "song.wav")
    assert "from 48,000 Hz to the model’s 44,100 Hz" in visit.locator("#original-rate").inner_text()
    heard, _ = soundfile.read(saved(visit, "#save-audio", tmp_path), always_2d=True)
    assert heard.shape == (-(-len(audio) * 44_100 // 48_000), 1)
    told = latent_file.inspect(saved(visit, "#save-latents", tmp_path)).metadata
    assert (told.channels, told.original_rate, told.original_samples) == (1, 48_000, len(audio))


def test_what_cannot_be_used_is_one_line_and_the_page_fits_a_phone(visit, tmp_path):
    (tmp_path / "text.wav").write_text("no sound")
    soundfile.write(tmp_path / "surround.wav", np.zeros((1000, 6)), 44_100)
    whole = tmp_path / ("long_name_" * 12 + ".wav")
    song(whole, seconds=1)
    (tmp_path / "cut.wav").write_bytes(whole.read_bytes()[:-1000])
    for name, line in (
        ("text.wav", "text.wav: This browser cannot decode it; try WAV, FLAC or MP3"),
        ("surround.wav", "surround.wav: It has 6 channels; fold it down to stereo first"),
        ("cut.wav", "cut.wav: It is cut off: 175400 of 176400 bytes of sound are there"),
    ):
        visit.locator("#file").set_input_files(tmp_path / name)
        visit.locator("#failure", has_text=line).wait_for()
        assert visit.locator("#progress").is_hidden()
    send(visit, whole)
    assert visit.locator("#failure").is_hidden()
    assert visit.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.long
def test_a_song_that_is_cancelled_leaves_room_for_the_next(visit, tmp_path):
    song(tmp_path / "first.wav", seconds=10)
    song(tmp_path / "second.wav", seconds=1)
    visit.locator("#file").set_input_files(tmp_path / "first.wav")
    visit.locator("#cancel").click()
    assert visit.locator("#progress").is_hidden()
    send(visit, tmp_path / "second.wav")
    assert visit.locator("#title").inner_text() == "second.wav"
    assert visit.evaluate("earvae.page.song.result[0].length") == 44_100


def test_from_disk_it_says_that_it_needs_a_server(chromium, made):
    page = chromium.new_page()
    page.goto((made[0] / "index.html").as_uri())
    assert page.locator("#unserved").is_visible() and page.locator("#drop").is_hidden()
    page.close()


# ---------------------------------------------------------------------- its scripts, in parts


def test_a_backend_is_held_to_pytorchs_numbers(visit):
    right, wrong = visit.evaluate(
        """async () => {
          const { Codec } = await import('./codec.js');
          const codec = await Codec.load(new URL('.', location.href), () => {}, 'wasm');
          const right = await codec.isRight();
          codec.model.check.audio[500] += 0.01;
          return [right, await codec.isRight()];
        }"""
    )
    assert right and not wrong


def test_stored_noise_goes_by_the_place_in_the_song(chromium, exported, runtime, serve, tmp_path):
    vae, runner, _ = exported("compact")
    export_web(vae, tmp_path, runtime)
    page = chromium.new_page()
    page.goto(serve(tmp_path))
    mean = np.random.default_rng(0).standard_normal((vae.latent_channels, 300)).astype(np.float32)
    samples = 300 * vae.hop_length
    found = page.evaluate(
        """async ([mean, samples]) => {
          const { Codec } = await import('./codec.js');
          const codec = await Codec.load(new URL('.', location.href), () => {}, 'wasm');
          codec.chunk = 50;
          const channels = await codec.decode(Float32Array.from(mean), samples, async () => {});
          return channels.map((channel) => [...channel]);
        }""",
        [mean.ravel().tolist(), samples],
    )
    page.close()
    expected = runner.decode(mean[None], samples)[0]
    assert np.abs(np.array(found) - expected).max() < 1e-5 * np.abs(expected).max()


def test_resampling_is_soxrs_as_far_as_it_passes(visit):
    audio = np.random.default_rng(0).standard_normal(9000).astype(np.float32)
    for source, target in ((48_000, 44_100), (44_100, 48_000), (96_000, 44_100), (22_050, 44_100)):
        found = np.array(visit.evaluate(
            """async ([audio, from, to]) => {
              const { resample } = await import('./resample.js');
              const [result] = await resample([Float32Array.from(audio)], from, to, async () => {});
              return [...result];
            }""",
            [audio.tolist(), source, target],
        ))  # fmt: skip
        expected = soxr.resample(audio, source, target, quality="VHQ")
        assert len(found) == -(-len(audio) * target // source)
        size = 8000 if source <= target else 4000
        window = np.hanning(size)
        low = np.fft.rfftfreq(size, 1 / target) < 0.9 * min(source, target) / 2
        one, other = (np.fft.rfft(x[50 : 50 + size] * window)[low] for x in (found, expected))
        assert np.abs(one - other).max() < 1e-3 * np.abs(other).max()


def test_wav_files_are_read_as_soundfile_reads_them(visit, tmp_path):
    audio = np.random.default_rng(1).uniform(-1, 1, (500, 2))
    for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"):
        for format in ("WAV", "WAVEX"):
            path = tmp_path / "one.wav"
            soundfile.write(path, audio, 48_000, subtype=subtype, format=format)
            rate, channels = visit.evaluate(
                """async (base64) => {
                  const { readWav } = await import('./formats.js');
                  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
                  const { rate, channels } = readWav(bytes.buffer);
                  return [rate, channels.map((channel) => [...channel])];
                }""",
                base64.b64encode(path.read_bytes()).decode(),
            )
            expected = soundfile.read(path, dtype="float32")[0]
            assert rate == 48_000
            np.testing.assert_array_equal(np.array(channels, np.float32).T, expected, subtype)


@pytest.mark.parametrize("kind", ["FLAC", "OGG", "OPUS", "MP3"])
def test_headers_tell_the_rate(visit, tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    options = {"format": "OGG", "subtype": "OPUS"} if kind == "OPUS" else {"format": kind}
    soundfile.write(path, np.zeros((9600, 2)), 48_000, **options)
    found = visit.evaluate(
        """async (base64) => {
          const { readHeader } = await import('./formats.js');
          return readHeader(Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)).buffer);
        }""",
        base64.b64encode(path.read_bytes()).decode(),
    )
    assert found == {"rate": 48_000, "bits": 16 if kind == "FLAC" else None}


def test_spectrograms_are_the_reports(visit):
    pytest.importorskip("jinja2", reason="the report needs the extra eval")
    from earvae.evaluation.report import spectrograms

    audio = soundfile.read(CLIPS / "automat.flac", dtype="float32", stop=20_000)[0]
    found = visit.evaluate(
        """async (channels) => {
          const { spectrograms } = await import('./pictures.js');
          const levels = await spectrograms(channels, 44100, async () => {});
          const some = (values) => [...values.filter((_, place) => place % 9 === 0)];
          return { mid: some(levels.mid), side: some(levels.side) };
        }""",
        audio.T.tolist(),
    )
    for name, signal in spectrograms.mid_side(audio).items():
        expected = spectrograms.spectrogram(signal, 44_100).ravel()[::9]
        difference = np.abs(found[name] - expected)
        assert np.percentile(difference, 99) < 0.1  # float32 there, near silence
