"""The listening report: built from synthetic results, read as HTML, and driven in Chromium."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile

pytest.importorskip("jinja2", reason="the report needs the eval extra")
pytest.importorskip("matplotlib", reason="the report needs the eval extra")

from earvae.errors import WriteError
from earvae.evaluation import figures, report
from earvae.evaluation.metrics.loudness import Loudness
from earvae.evaluation.report import cells, curves, sound, spectrograms
from earvae.evaluation.results import Results, ResultsError

RATE, SECONDS = 44_100, 3
EVIL = "Ünï </script><script>alert(1)</script> \"q\" 'a' <b>&amp; {{ 7 * 7 }}.flac"
PLAIN = "folder/plain.wav"
CODECS = ("earvae", 'x"<i>y', "identity")
HERE = Path(report.__file__).parent


def noise(seed: int) -> np.ndarray:
    return 0.2 * np.random.default_rng(seed).standard_normal((RATE * SECONDS, 2))


def example_results() -> dict:
    """Two tracks; the second codec failed on the second one."""
    metrics = {
        "earvae": {"mel": 0.5, "stft": 1.0, "si_sdr": 9.0, "icpc": 0.97, "lufs_difference": -0.5},
        CODECS[1]: {"mel": 0.7, "stft": None, "si_sdr": 8.0, "icpc": 0.9, "lufs_difference": 0.2},
        "identity": {"mel": 0.0, "stft": 0.0, "si_sdr": 99.0, "icpc": 1.0, "lufs_difference": 0.0},
    }
    for codec, errors in zip(CODECS, (3.0, 1.5, 0.0), strict=True):
        metrics[codec] |= {"level_error_63": errors, "level_error_16000": None}
    metrics["earvae"]["sdr_1-2"], metrics[CODECS[1]]["sdr_1-2"] = 2.0, 6.0
    loud = {"lufs": -14.0, "lra": 2.0, "true_peak_db": -1.0}
    results = [
        {
            "codec": codec,
            "track": track,
            "lag_samples": 0,
            "metrics": metrics[codec],
            "loudness": loud,
            "error": None,
        }
        for codec in CODECS
        for track in (EVIL, PLAIN)
    ]
    results[3] |= {"metrics": {}, "error": "ffmpeg <fell> over", "lag_samples": None}
    summary = [
        {
            "codec": codec,
            "metric": metric,
            "mean": value,
            "median": value,
            "low": value,
            "high": value,
            "count": 2 - (codec == CODECS[1]),
            "worst": [EVIL],
        }
        for codec, values in metrics.items()
        for metric, value in values.items()
    ]
    return {
        "settings": {
            "sample_rate": RATE,
            "metric_version": 1,
            "seconds": SECONDS,
            "start": "middle",
            "loud": False,
        },
        "codecs": [
            {
                "name": name,
                "description": "made <up>",
                "parameters": 8_780_000 if name == "earvae" else None,
                "sanity": name == "identity",
            }
            for name in CODECS
        ],
        "tracks": [
            {"name": EVIL, "slug": "evil", "start": 0.0, "seconds": 3.0, "loudness": loud},
            {"name": PLAIN, "slug": "folder_plain", "start": 0.0, "seconds": 3.0, "loudness": {}},
        ],
        "results": results,
        "summary": summary,
    }


def write_example(out: Path) -> Path:
    """An evaluation whose versions are unlike each other, so that one can tell what sounds."""
    Results.model_validate(example_results()).write(out / "results.json")
    for number, slug in enumerate(("evil", "folder_plain")):
        folder = out / "audio" / slug
        folder.mkdir(parents=True)
        for seed, name in enumerate(("reference", *CODECS)):
            if (slug, name) == ("folder_plain", CODECS[1]):
                continue
            audio = noise(0 if name == "identity" else 10 * number + seed)
            soundfile.write(folder / f"{name}.wav", audio, RATE, subtype="FLOAT")
    return out


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The folder of a report."""
    return report.build(write_example(tmp_path_factory.mktemp("evaluation"))).parent


TITLE, NOTES = "A <b>title", "For <all>\nof us.\n \nBring {{ headphones }}."
HAS_OPUS = "OPUS" in soundfile.available_subtypes("OGG") and soundfile.__version__ >= "0.13"


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """The same with Opus, a title and notes."""
    presentation = report.Presentation(TITLE, NOTES, "opus" if HAS_OPUS else "flac")
    return report.build(write_example(tmp_path_factory.mktemp("small")), presentation).parent


class Elements(HTMLParser):
    """All start tags, and the text by the tag that it stands in."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, text):
        self.texts.append((self.tags[-1][0] if self.tags else "", text.strip()))

    def find(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [
            found
            for name, found in self.tags
            if name == tag and all(found.get(key) == value for key, value in wanted.items())
        ]

    def __contains__(self, text: str) -> bool:
        return any(text in found for _, found in self.texts)


def pages(built: Path) -> dict[str, Elements]:
    return {
        path.relative_to(built).as_posix(): Elements(path.read_text("utf-8"))
        for path in built.rglob("*.html")
    }


# ------------------------------------------------------------------------------ the folder


def test_report_has_an_index_and_a_page_for_each_track(built):
    tracks = {"tracks/evil.html", "tracks/folder_plain.html"}
    assert set(pages(built)) == {"index.html", "mushra.html", *tracks}


def test_everything_that_pages_load_or_link_lies_in_the_folder(built):
    for name, page in pages(built).items():
        for tag, attributes in page.tags:
            for key in ("src", "href", "data", "action", "poster", "srcset"):
                value = attributes.get(key)
                if value is None or value.startswith("#") or value == "data:,":
                    continue
                target = (built / name).parent / unquote(value)
                assert target.resolve().is_relative_to(built.resolve()), (name, tag, value)
                assert target.is_file(), (name, tag, value)
        data = page_data(built / name)
        for version in (
            v for track in ([data] if "tracks" in name else data) for v in track["versions"]
        ):
            assert version["script"] is None or (built / version["script"]).is_file()


def test_static_files_name_no_address_and_fetch_nothing():
    for path in [*HERE.glob("static/*"), *HERE.glob("templates/*")]:
        text = path.read_text("utf-8")
        assert "//" not in re.sub(r"(?m)(^|\s)//\s.*$", "", text).replace("://", "//@"), path
        for forbidden in ("fetch(", "XMLHttpRequest", "import(", 'type="module"', "@import"):
            assert forbidden not in text, (path, forbidden)


def test_report_is_replaced_as_a_whole(tmp_path):
    out = write_example(tmp_path)
    index = report.build(out)
    before = index.stat().st_ino
    assert report.build(out) == index and index.stat().st_ino != before
    assert sorted(path.name for path in out.iterdir()) == ["audio", "report", "results.json"]
    (index.parent / "notes.txt").write_text("somebody's")
    with pytest.raises(WriteError, match="notes.txt"):
        report.build(out)
    assert (index.parent / "notes.txt").read_text() == "somebody's"


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": "other"}', '{"format": "earvae-evaluation-2"}']
)
def test_results_that_cannot_be_understood_are_refused_by_name(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ResultsError, match="results.json"):
        report.build(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


# ------------------------------------------------------------------------------ names and gaps


def page_data(path: Path) -> dict:
    found = re.search(
        r'<script type="application/json" id="page-data">(.*?)</script>', path.read_text("utf-8")
    )
    return json.loads(found[1])


def test_names_cannot_break_out_of_the_page(built):
    for name, page in pages(built).items():
        scripts = [s for s in page.find("script") if s.get("type") != "application/json"]
        assert all("src" in script for script in scripts), name
        assert not page.find("i"), name
    assert EVIL in Elements((built / "index.html").read_text("utf-8"))
    evil = built / "tracks" / "evil.html"
    assert EVIL in Elements(evil.read_text("utf-8"))
    assert page_data(evil)["track"] == EVIL
    assert [v["name"] for v in page_data(evil)["versions"]] == ["Reference", *CODECS]


def test_missing_reconstruction_is_named_and_cannot_be_chosen(built):
    page = pages(built)["tracks/folder_plain.html"]
    buttons = [b for b in page.find("button") if b.get("class") == "version"]
    assert ["disabled" in button for button in buttons] == [False, False, True, False]
    assert "ffmpeg <fell> over" in page
    assert "ffmpeg <fell> over" in pages(built)["index.html"]
    assert page_data(built / "tracks/folder_plain.html")["versions"][2]["script"] is None


def test_null_figures_are_dashes_and_counts_are_shown(built):
    index = pages(built)["index.html"]
    assert any(tag == "span" and text == figures.MISSING for tag, text in index.texts)
    assert "1 of 2 tracks" in index
    assert not any(re.search(r"\b(None|nan|undefined)\b", text) for _, text in index.texts)


def test_title_and_notes_are_text_on_the_first_page(small):
    index = (small / "index.html").read_text("utf-8")
    assert ("h1", TITLE) in Elements(index).texts
    found = re.search(r'<div class="notes">(.*?)</div>', index, re.DOTALL)[1]
    assert re.findall("<p>(.*?)</p>", found, re.DOTALL) == [
        "For &lt;all&gt;\nof us.", "Bring {{ headphones }}.",
    ]  # fmt: skip
    assert TITLE in Elements((small / "tracks/evil.html").read_text("utf-8"))


# ------------------------------------------------------------------------------ figures


def metric(key: str) -> figures.Figure:
    return figures.BY_KEY[key]


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("mel", {"a": 0.3, "b": 0.1, "c": 0.2}, {"b": "best", "c": "second"}),
        ("si_sdr", {"a": 3.0, "b": 1.0, "c": 2.0}, {"a": "best", "c": "second"}),
        ("lufs_difference", {"a": -0.2, "b": 0.1, "c": 3.0}, {"b": "best", "a": "second"}),
        ("mel", {"a": 0.1001, "b": 0.1002, "c": 0.2}, {"a": "best", "b": "best", "c": "second"}),
        ("mel", {"a": 0.1, "b": None}, {}),
        ("mel", {"a": None, "b": None}, {}),
    ],
)
def test_best_and_second_best_by_the_direction_of_the_metric(key, values, expected):
    assert cells.marks(values, metric(key)) == expected


def test_sanity_rows_are_not_marked(tmp_path):
    results = Results.read(write_example(tmp_path) / "results.json")
    rows = cells.summary_rows(results, [metric("mel"), metric("si_sdr")], "mean")
    assert [cell.mark for cell in rows["earvae"]] == ["best", "best"]
    assert [cell.mark for cell in rows[CODECS[1]]] == ["second", "second"]
    assert [cell.mark for cell in rows["identity"]] == ["", ""]


def test_numbers_have_true_minus_signs_and_no_negative_zero():
    assert metric("lufs_difference").text(-0.5) == "−0.50"
    assert metric("lufs_difference").text(0.5) == "+0.50"
    assert metric("lufs_difference").text(-0.001) == "0.00"
    assert metric("icpc").text(0.96664) == "96.66"
    assert [cells.count(x) for x in (None, 950, 2756, 8_780_000)] == [
        "–", "950", "2.76\u202fk", "8.78\u202fM",
    ]  # fmt: skip


def test_bands_are_shaded_by_how_bad_they_are(tmp_path):
    results = Results.read(write_example(tmp_path) / "results.json")
    rows = cells.band_rows(results, metric("level_error_63"))
    assert rows["earvae"][0] == ("3.00", 1.0) and rows[CODECS[1]][0] == ("1.50", 0.5)
    assert rows["identity"][0] == ("0.00", 0.0) and rows["earvae"][-1] == ("–", 0.0)
    rows = cells.band_rows(results, metric("sdr_1-2"))
    assert rows["earvae"][1] == ("2.0", 1.0) and rows[CODECS[1]][1] == ("6.0", 0.0)
    assert "identity" not in rows
    names = [figures.band_name(name) for name in ("63", "16000", "0.2-1")]
    assert names == ["63 Hz", "16 kHz", "0.2–1 kHz"]


def test_every_figure_of_the_table_is_on_the_index(built):
    index = pages(built)["index.html"]
    for figure in figures.listed(judges=False):
        assert figure.label.replace("-", "‑") in index or figure.label in index, figure.key


# ------------------------------------------------------------------------------ sound


def test_one_gain_brings_the_reference_to_minus_14_lufs():
    gains = sound.playback_gains([Loudness(-9.0, 3.0, 0.5), Loudness(-12.0, 3.0, 0.9)])
    assert gains.gain == pytest.approx(-5.0)
    assert not gains.limited
    assert gains.loudness == pytest.approx(-14.0)
    assert gains.matching == pytest.approx([0.0, 3.0])  # on top: both at −14


def test_no_version_passes_the_ceiling():
    versions = [Loudness(-30.0, 3.0, -8.0), Loudness(-30.5, 3.0, -6.0), Loudness(-60, None, -40)]
    gains = sound.playback_gains(versions)
    assert gains.limited
    assert gains.gain == pytest.approx(5.0)  # the second version's peak reaches −1 dB
    for version, extra in zip(versions, gains.matching, strict=True):
        assert version.true_peak_db + gains.gain + extra <= sound.CEILING_DB + 1e-9
    assert versions[0].lufs + gains.matching[0] == pytest.approx(-30.5 + gains.matching[1])
    assert gains.matching[2] == 0  # nearly silent: left alone


def test_silent_track_is_played_as_it_is():
    gains = sound.playback_gains([Loudness(None, None, None), Loudness(-20.0, 1.0, 3.0)])
    assert gains.gain == pytest.approx(-4.0)
    assert gains.matching == [0.0, 0.0]


def decoded(script: str) -> np.ndarray:
    data = base64.b64decode(re.search(r'", "([^"]+)"\);', script)[1])
    assert soundfile.info(io.BytesIO(data)).subtype == "PCM_16"
    return soundfile.read(io.BytesIO(data), always_2d=True)[0]


def test_peaks_over_full_scale_do_not_clip():
    audio = 1.8 * np.sin(np.arange(RATE)[:, None] / 40 + np.array([0, 1]))
    gain = sound.playback_gains([Loudness(-6.0, 0.0, 20 * np.log10(np.abs(audio).max()))]).gain
    stored = decoded(sound.script("key", sound.flac(audio, RATE, gain)))
    error = stored - audio * 10 ** (gain / 20)
    assert np.abs(error).max() < 1.6 / 32768  # rounding and the dither's two bits


def test_dither_makes_the_error_independent_and_equal_audio_equal():
    quiet = 3e-5 * np.sin(np.arange(RATE)[:, None] / 30 + np.zeros(2))  # under a bit
    first, second = (decoded(sound.script("k", sound.flac(quiet, RATE, 0.0))) for _ in range(2))
    assert np.array_equal(first, second)
    shape = quiet[:, 0] / np.linalg.norm(quiet[:, 0])
    assert first[:, 0] @ shape == pytest.approx(quiet[:, 0] @ shape, rel=0.05)


@pytest.mark.skipif(not HAS_OPUS, reason="soundfile or libsndfile is too old for Opus")
def test_opus_is_small_and_in_time_and_equal_for_equal_audio():
    tone = 0.3 * np.sin(np.arange(3 * RATE)[:, None] / np.array([20, 27])).astype(np.float32)
    data = sound.opus(tone, RATE, -6.0)
    assert len(data) < len(sound.flac(noise(0), RATE, 0.0)) / 2
    made, rate = soundfile.read(io.BytesIO(data))
    assert np.array_equal(made, soundfile.read(io.BytesIO(sound.opus(tone, RATE, -6.0)))[0])
    times = np.arange(rate // 2, 2 * rate) / rate * RATE  # where the encoder has settled
    expected = 0.3 * 10 ** (-6 / 20) * np.sin(times[:, None] / np.array([20, 27]))
    assert rate == 48_000 and len(made) == 3 * rate
    assert np.abs(made[rate // 2 : 2 * rate] - expected).max() < 0.02


def test_without_opus_there_is_one_clear_line(monkeypatch):
    def old(*arguments, **options):
        raise ValueError("Invalid combination of format, subtype and endian")

    monkeypatch.setattr(sound.soundfile, "SoundFile", old)
    with pytest.raises(sound.SoundError, match="pip install -U soundfile"):
        sound.opus(np.zeros((100, 2), np.float32), RATE, 0.0)


# ------------------------------------------------------------------------------ pictures


def test_full_scale_sine_reads_zero_at_its_row():
    hertz = 100 * RATE / spectrograms.WINDOW  # on a bin
    levels = spectrograms.spectrogram(np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE), RATE)
    middle = levels[:, spectrograms.COLUMNS // 2]
    (height,) = np.log1p(np.array([hertz]) / 700) / np.log1p(RATE / 2 / 700)
    assert abs(int(middle.argmax()) / (spectrograms.ROWS - 1) - height) < 0.01
    assert middle.max() == pytest.approx(0.0, abs=3.0)
    assert np.percentile(middle, 50) < -80


def test_spectrogram_of_a_long_signal_holds_no_more_columns():
    assert spectrograms.spectrogram(np.zeros(4_000_000, np.float32), RATE).shape == (208, 1000)
    assert spectrograms.spectrogram(np.zeros(100, np.float32), RATE).shape == (208, 1000)


def test_difference_is_clear_where_equal_and_coloured_where_not(tmp_path):
    image = pytest.importorskip("PIL.Image")
    reference = np.full((spectrograms.ROWS, spectrograms.COLUMNS), -30.0)
    other = reference.copy()
    other[:, 500:] -= 20
    spectrograms.write_difference(other, reference, 0.0, tmp_path / "d.webp")
    pixels = np.asarray(image.open(tmp_path / "d.webp"))
    assert pixels[:, :490, 3].max() == 0
    assert pixels[:, 510:, 3].min() >= 0xE0
    assert pixels[100, 900, 2] > pixels[100, 900, 0]  # quieter is blue


def test_curves_of_mono_flipped_and_one_sided_sound():
    left = noise(1)[:, 0]
    mono = curves.curves(np.stack([left, left], axis=1), RATE)
    flipped = curves.curves(np.stack([left, -left], axis=1), RATE)
    one_sided = curves.curves(np.stack([left, 0 * left], axis=1), RATE)
    assert np.allclose(mono.correlation, 1) and np.allclose(flipped.correlation, -1)
    assert np.isnan(one_sided.correlation).all()
    assert (mono.side_db == spectrograms.FLOOR_DB).all() and (
        flipped.mid_db == spectrograms.FLOOR_DB
    ).all()
    expected = 10 * np.log10(2 * np.mean(left**2))
    assert mono.mid_db.mean() == pytest.approx(expected, abs=0.1)


def test_gaps_interrupt_the_path():
    path = curves.path_data(np.array([0.0, np.nan, 1.0, 2.0]), 0.0, 1.0)
    assert path == "M125 100.0M625 0.0L875 0.0"


# ------------------------------------------------------------------------------ the p-value


CASES = [(0, 0), (0, 10), (5, 10), (10, 10), (9, 16), (12, 16), (13, 16), (31, 40), (560, 1000),
         (1000, 1000), (700, 2000)]  # fmt: skip


def expected_p() -> list[float]:
    stats = pytest.importorskip("scipy.stats")
    return [
        stats.binomtest(right, trials, 0.5, alternative="greater").pvalue if trials else 1.0
        for right, trials in CASES
    ]


def test_p_value_is_the_one_sided_binomial_tests():
    node = shutil.which("node")
    if not node:
        pytest.skip("node is not installed")
    code = (HERE / "static" / "statistics.js").read_text("utf-8")
    code += f"console.log(JSON.stringify({json.dumps(CASES)}.map((c) => earvae.binomialP(...c))));"
    found = subprocess.run([node, "-e", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(found) == pytest.approx(expected_p(), rel=1e-9)


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


@pytest.fixture
def visit(chromium, built):
    """Open a page of the report; complaints and requests beyond the folder fail the test."""
    complaints: list[str] = []
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(10_000)
    page = context.new_page()
    page.on("console", lambda m: m.type in ("error", "warning") and complaints.append(m.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message) or dialog.dismiss())
    home = built.resolve().as_uri() + "/"

    def watch(request) -> None:
        if not request.url.startswith((home, "data:", "blob:")):
            complaints.append(f"request: {request.url}")

    context.on("request", watch)

    def open_page(name: str = "tracks/evil.html"):
        page.goto(home + name)
        if name != "mushra.html":
            page.wait_for_function("window.earvae && earvae.page && earvae.page.sounds.has(3)")
        return page

    yield open_page
    context.close()
    assert complaints == []


LISTEN = """async () => {
  // What comes out now: which version is it, and how far is it from the position that is claimed?
  const player = earvae.page.player;
  const analyser = player.context.createAnalyser();
  analyser.fftSize = 4096;
  player.output.connect(analyser);
  const heard = new Float32Array(4096);
  let end = 0;
  for (let tries = 0; tries < 200; tries += 1) { // until the analyser is full
    await new Promise((resolve) => setTimeout(resolve, 20));
    analyser.getFloatTimeDomainData(heard);
    end = Math.round(player.position() * 44100);
    const loop = player.loop || { start: 0, end: 3 };
    const inside = end > 44100 * loop.start + 6000 && end < 44100 * loop.end - 3000;
    if (heard[0] && inside) break;
  }
  let best = { match: 0 };
  earvae.page.sounds.buffers.forEach((buffer, version) => {
    const left = buffer.getChannelData(0), right = buffer.getChannelData(1);
    for (let lag = -3000; lag <= 3000; lag += 1) {
      let cross = 0, ours = 1e-9, theirs = 1e-9;
      for (let i = 0; i < 256; i += 1) {
        const at = end + lag - 256 + i;
        const x = heard[3840 + i], y = (left[at] + right[at]) / 2 || 0;
        cross += x * y; ours += x * x; theirs += y * y;
      }
      const match = cross / Math.sqrt(ours * theirs);
      if (match > best.match + 1e-6) best = { match, version, lag, claimed: player.version };
    }
  });
  return best;
}"""


def test_players_switch_and_keep_the_position(visit):
    page = visit()
    page.keyboard.press(" ")
    page.wait_for_function("earvae.page.player.playing")
    for key, version in (("1", 0), ("2", 1), ("3", 2), ("2", 1)):
        before, after, seconds = page.evaluate(
            """(key) => {
              const player = earvae.page.player, before = player.position(), from = player.now();
              document.body.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
              return [before, player.position(), player.now() - from];
            }""",
            key,
        )
        assert abs(after - before - seconds) < 0.05
        found = page.evaluate(LISTEN)
        assert found["version"] == found["claimed"] == version
        assert found["match"] > 0.99
        assert abs(found["lag"]) / RATE < 0.05
    page.keyboard.press(" ")
    assert not page.evaluate("earvae.page.player.playing")


def test_switching_is_exact_to_the_sample_and_without_a_gap(visit):
    page = visit()
    start, samples = page.evaluate(
        """async () => {
          const { player, sounds } = earvae.page;
          const context = new OfflineAudioContext(2, 22050, 44100);
          player.context = context;
          player.output = context.createGain();
          player.output.connect(context.destination);
          player.heard = player.version = 1;
          player.start(1.0);
          context.suspend(0.25).then(async () => { await player.select(2); context.resume(); });
          const rendered = (await context.startRendering()).getChannelData(0);
          const [one, two] = [1, 2].map((version) => sounds.get(version).getChannelData(0));
          const begin = Math.round(player.deck.start * 44100);
          const rows = [];
          for (let i = begin; i < 22050; i += 1) {
            const at = 44100 + i - begin;
            rows.push([rendered[i], one[at], two[at]]);
          }
          return [begin, rows];
        }"""
    )
    out, one, two = np.array(samples).T
    switch = round(0.25 * RATE) - start
    fade = round(0.01 * RATE)
    assert np.allclose(out[fade + 1 : switch - 128], one[fade + 1 : switch - 128], atol=1e-6)
    assert np.allclose(out[switch + fade + 256 :], two[switch + fade + 256 :], atol=1e-6)
    middle = slice(switch - 128, switch + fade + 256)
    # In between it is a mixture of the two whose weights sum to one.
    weight = (out[middle] - one[middle]) / (two[middle] - one[middle])
    assert weight.min() > -1e-2 and weight.max() < 1.01
    assert (
        np.abs(np.diff(np.median(weight[: len(weight) // 8 * 8].reshape(-1, 8), axis=1))).max()
        < 0.05
    )


def test_sources_that_are_made_late_join_in_step(visit):
    page = visit()
    rows = page.evaluate(
        """async () => {
          const { player, sounds } = earvae.page;
          const context = new OfflineAudioContext(2, 22050, 44100);
          player.context = context;
          player.output = context.createGain();
          player.output.connect(context.destination);
          player.heard = player.version = 1;
          let clock = 0;
          player.now = () => (clock += 0.007); // a machine that is slow
          player.start(1.0);
          const rendered = (await context.startRendering()).getChannelData(0);
          const sound = sounds.get(1).getChannelData(0);
          const begin = Math.round(player.deck.start * 44100);
          const rows = [];
          for (let i = begin; i < 22050; i += 1) rows.push([rendered[i], sound[44100 + i - begin]]);
          return rows;
        }"""
    )
    out, expected = np.array(rows)[round(0.3 * RATE) :].T
    assert np.allclose(out, expected, atol=1e-6)


def test_many_quick_jumps_leave_one_sound(visit):
    page = visit()
    page.keyboard.press("2")
    page.keyboard.press(" ")
    page.wait_for_function("earvae.page.player.playing")
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
        page.evaluate("earvae.page.player.seek(0.3)")
    page.evaluate("earvae.page.player.setLoop({ start: 0.1, end: 2.9 })")
    found = page.evaluate(LISTEN)
    assert found["version"] == 1 and found["match"] > 0.99
    assert abs(found["lag"]) / RATE < 0.05


def test_seeking_looping_and_keys(visit):
    page = visit()
    position = "earvae.page.player.position()"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(position) == pytest.approx(2.0)
    page.keyboard.press("]")
    page.keyboard.press("ArrowLeft")
    page.evaluate("earvae.page.player.seek(1.5)")
    page.keyboard.press("[")
    assert page.evaluate("earvae.page.player.loop") == {"start": 1.5, "end": 2.0}
    page.locator("#loop-end").focus()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("earvae.page.player.loop.end") == pytest.approx(1.9)
    page.locator("#play").click()
    page.wait_for_function("earvae.page.player.playing")
    page.wait_for_timeout(900)  # two rounds
    assert 1.5 <= page.evaluate(position) <= 1.9
    assert abs(page.evaluate(LISTEN)["lag"]) / RATE < 0.05
    page.keyboard.press("l")
    assert page.evaluate("earvae.page.player.loop") is None
    box = page.locator("#timeline").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    assert page.evaluate(position) == pytest.approx(0.25 * SECONDS, abs=0.15)
    page.keyboard.press("2")
    page.keyboard.press("r")
    assert page.evaluate("earvae.page.player.version") == 0
    page.keyboard.press("r")
    assert page.evaluate("earvae.page.player.version") == 1


def test_playing_ends_at_the_end(visit):
    page = visit()
    page.evaluate("earvae.page.player.seek(2.7)")
    page.keyboard.press(" ")
    page.wait_for_function("earvae.page.player.playing")
    page.wait_for_function("!earvae.page.player.playing")
    assert page.evaluate("earvae.page.player.position()") == 0
    assert page.locator("#play").inner_text() == "Play"


def test_version_without_audio_is_skipped_by_keys(visit):
    page = visit("tracks/folder_plain.html")
    page.keyboard.press("3")
    assert page.evaluate("earvae.page.player.version") == 0
    page.keyboard.press("4")
    assert page.evaluate("earvae.page.player.version") == 3


def test_equally_loud_versions_are_a_choice(visit):
    page = visit()
    assert page.evaluate("earvae.page.player.levels") == []
    page.locator("#match").check()
    levels = page.evaluate("earvae.page.player.levels")
    data = page.evaluate("JSON.parse(document.getElementById('page-data').textContent).versions")
    assert levels == pytest.approx([10 ** (version["matching"] / 20) for version in data])


def test_abx_counts_and_stores_and_saves(visit):
    stats = pytest.importorskip("scipy.stats")
    page = visit()
    page.keyboard.press("3")
    page.locator("#abx-open").click()
    page.locator("#abx-count").select_option("8")
    page.locator("#listener").fill("Ada")
    page.locator("#abx-setup button[type=submit]").click()
    page.wait_for_function("earvae.page.abx.running")
    assert page.evaluate("earvae.page.abx.test.b") == CODECS[1]
    assert not page.locator(".evidence").is_visible()
    for number in range(8):
        assert f"Trial {number + 1} of 8" in page.locator("#abx-number").inner_text()
        page.keyboard.press("x")
        x = page.evaluate("earvae.page.abx.test.x")
        expected = page.evaluate("(x) => earvae.page.abx.index[x]", x)
        assert page.evaluate("earvae.page.player.version") == expected
        assert page.locator("[data-version='2'].version").get_attribute("aria-pressed") == "true"
        answer = {"A": "B", "B": "A"}[x] if number == 2 else x
        page.keyboard.press(f"Shift+{answer}")
    p = stats.binomtest(7, 8, alternative="greater").pvalue
    assert page.locator("#abx-score").inner_text() == f"7 of 8 right, p = {p:.3f}"
    with page.expect_download() as download:
        page.locator("#abx-save").click()
    record = json.loads(Path(download.value.path()).read_text("utf-8"))
    assert (record["correct"], record["count"], record["track"]) == (7, 8, EVIL)
    assert record["listener"] == "Ada"
    assert record["p_value"] == pytest.approx(p)
    assert [trial["correct"] for trial in record["trials"]].index(False) == 2
    page.locator("#abx-done").click()
    page.reload()
    cells = page.locator("#past-rows td").all_inner_texts()
    assert cells[:5] == ["Reference", CODECS[1], "7", "8", f"{p:.4f}"]


def test_abx_draws_both_ways(visit):
    page = visit()
    heads = page.evaluate(
        """() => {
          const test = new earvae.AbxTest('a', 'b', 400);
          for (let i = 0; i < 400; i += 1) test.answer('A');
          return test.correct;
        }"""
    )
    assert 140 < heads < 260  # six standard deviations


def test_p_value_in_the_browser(visit):
    found = visit().evaluate("(cases) => cases.map((c) => earvae.binomialP(...c))", CASES)
    assert found == pytest.approx(expected_p(), rel=1e-9)


def test_index_sorts_and_shows_what_is_chosen(visit):
    page = visit("index.html")
    head = page.locator("[data-shown=mean] th", has_text="SI‑SDR").first
    names = page.locator("[data-shown=mean]").first.locator("tbody").first.locator("th")
    head.locator("button").click()
    assert names.all_inner_texts()[0].startswith('x"<i>y')
    head.locator("button").click()
    assert names.all_inner_texts()[0] == "earvae"
    page.get_by_role("button", name="Median").click()
    assert page.locator("[data-shown=median]").first.is_visible()
    assert not page.locator("[data-shown=mean]").first.is_visible()
    page.locator("#metric").select_option("by-2")
    assert page.locator("#by-2").is_visible() and not page.locator("#by-1").is_visible()


def test_theme_follows_the_system_until_it_is_chosen(visit):
    page = visit("index.html")
    theme = "document.documentElement.dataset.theme"
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"{theme} === 'dark'")
    page.locator("#theme").click()
    assert page.evaluate(theme) == "light"
    visit()
    assert page.evaluate(theme) == "light"


@pytest.mark.parametrize("name", ["index.html", "tracks/evil.html", "mushra.html"])
def test_phone_scrolls_tables_and_not_the_page(visit, name):
    page = visit(name)
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    page.set_viewport_size({"width": 320, "height": 640})
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 320


@pytest.mark.parametrize(
    "edit",
    [
        lambda v: v["tracks"][0].update(slug="../../x"),
        lambda v: v["tracks"][0].update(slug="folder_plain"),
        lambda v: v["codecs"][0].update(name="../x"),
        lambda v: v["codecs"].append(v["codecs"][0]),
        lambda v: v["results"].pop(),
        lambda v: v["results"][0].update(track="another"),
        lambda v: v["results"][0].update(lag_samples=[1]),
        lambda v: v["summary"][0].update(codec="another"),
        lambda v: v["settings"].update(sample_rate=0),
        lambda v: v.update(tracks=[]),
    ],
)
def test_results_that_do_not_fit_together_are_refused_by_name(tmp_path, edit):
    values = example_results()
    edit(values)
    path = tmp_path / "results.json"
    for text in (json.dumps(values), "[" * 99_999):
        path.write_text(text)
        with pytest.raises(ResultsError, match=f"^{path}: "):
            report.build(tmp_path)
    assert os.listdir(tmp_path) == ["results.json"]


def test_a_sound_that_cannot_be_read_is_missing_and_the_rest_is_shown(tmp_path):
    write_example(tmp_path)
    folder = tmp_path / "audio" / "evil"
    (folder / "earvae.wav").write_bytes(b"no sound")
    soundfile.write(folder / "identity.wav", noise(0)[:100], RATE)
    (tmp_path / "audio" / "folder_plain" / "reference.wav").write_bytes(b"")
    report.build(tmp_path)
    page = (tmp_path / "report" / "tracks" / "evil.html").read_text()
    assert "is not as long as the reference" in page and "earvae.wav: " in page
    assert (tmp_path / "report" / "tracks" / "folder_plain.html").exists()


# ------------------------------------------------------------------------------ the first page


def test_first_page_plays_every_version_of_any_track(visit):
    page = visit("index.html")
    page.locator(".version").nth(2).click()
    page.keyboard.press(" ")
    page.wait_for_function("earvae.page.player.playing")
    found = page.evaluate(LISTEN)
    assert found["version"] == found["claimed"] == 2 and found["match"] > 0.99
    assert unquote(page.locator("#track-page").get_attribute("href")) == "tracks/evil.html"
    page.locator("#track").select_option("1")
    page.wait_for_function("earvae.page.player.playing && earvae.page.sounds.has(3)")
    # The second codec failed there: its button is off, and the reference is heard.
    enabled = page.locator(".version").evaluate_all("all => all.map((one) => !one.disabled)")
    assert enabled == [True, True, False, True]
    assert page.locator("#track-page").get_attribute("href") == "tracks/folder_plain.html"
    page.keyboard.press("2")
    found = page.evaluate(LISTEN)
    assert found["version"] == found["claimed"] == 1 and found["match"] > 0.99


@pytest.mark.skipif(not HAS_OPUS, reason="soundfile or libsndfile is too old for Opus")
def test_opus_plays_in_step_with_the_flac_it_stands_for(chromium, built, small):
    assert "Opus at about 260" in (small / "index.html").read_text("utf-8")
    page = chromium.new_page()
    sounds = []
    for folder in (built, small):
        page.goto((folder / "tracks/folder_plain.html").as_uri())
        page.wait_for_function("window.earvae && earvae.page && earvae.page.sounds.has(1)")
        sounds.append(page.evaluate(
            "Array.from(earvae.page.sounds.get(1).getChannelData(0).subarray(44100, 52292))"
        ))  # fmt: skip
    page.close()
    flac, opus = (np.fft.rfft(values) for values in sounds)
    shift = np.fft.irfft(flac * opus.conj()).argmax()
    assert min(shift, 8192 - shift) <= 1


# ------------------------------------------------------------------------------ MUSHRA


def rate(page, place: int, rating: int) -> None:
    slider = page.locator(".rating input").nth(place)
    slider.evaluate(
        "(one, value) => { one.focus(); one.value = value;"
        " one.dispatchEvent(new Event('input', { bubbles: true })); }",
        rating,
    )


def test_mushra_is_blind_random_and_saved(visit, tmp_path):
    from earvae.evaluation import listeners

    page = visit("mushra.html")
    assert page.locator("input[name=codec]").evaluate_all("all => all.map((b) => b.checked)") == [
        True, True, False,
    ]  # fmt: skip
    page.locator("#listener").fill("Ada <1>")
    page.locator("#match").check()
    page.locator("#setup button[type=submit]").click()
    orders = []
    for number in (1, 2):
        page.wait_for_function(
            "(done) => earvae.page && earvae.page.test.record.trials.length === done"
            " && document.querySelector('.rating:not(.rated)')",
            arg=number - 1,
        )
        assert page.locator("#trial-number").inner_text() == f"Track {number} of 2"
        names = page.evaluate("earvae.page.test.trial.conditions.map((c) => c.name)")
        orders.append(names)
        for name in (*CODECS, EVIL, PLAIN):
            assert name not in page.locator("#player").inner_text()
        assert not page.locator("#setup").is_visible()
        page.keyboard.press(" ")
        page.wait_for_function("earvae.page.player.playing")
        page.keyboard.press("2")
        place = page.evaluate("earvae.page.test.trial.conditions[1].version")
        assert page.evaluate("earvae.page.player.version") == place
        page.keyboard.press("PageUp")
        page.keyboard.press("ArrowRight")
        assert page.locator(".rating output").nth(1).inner_text() == "11"
        page.keyboard.press("r")
        assert page.evaluate("earvae.page.player.version") == 0
        page.locator("#next").click()
        assert "not rated yet" in page.locator("#trial-status").inner_text()
        for position, name in enumerate(names):
            rate(page, position, {"Reference": 99, "Anchor 7 kHz": 30}.get(name, 60))
        page.locator("#next").click()
        assert "none has 100" in page.locator("#trial-status").inner_text()
        rate(page, names.index("Reference"), 100)
        page.keyboard.press(" ")
        page.locator("#next").click()
    with page.expect_download() as download:
        page.locator("#save").click()
    assert download.value.suggested_filename == "mushra_Ada_1_.json"
    download.value.save_as(tmp_path / "a.json")
    (test,) = listeners.read(tmp_path / "a.json")
    assert (test.listener, test.equally_loud) == ("Ada <1>", True)
    by_track = {trial.track: {r.name: r.rating for r in trial.ratings} for trial in test.trials}
    common = {"Reference": 100, "Anchor 3.5 kHz": 60, "Anchor 7 kHz": 30, "earvae": 60}
    assert by_track == {EVIL: common | {CODECS[1]: 60}, PLAIN: common}
    assert [[r.name for r in trial.ratings] for trial in test.trials] == orders
    page.reload()
    assert page.locator("#past-count").inner_text() == "1"
    assert page.locator("#listener").input_value() == "Ada <1>"


def test_anchors_keep_to_the_standard_and_are_in_time(visit):
    page = visit("mushra.html")
    responses = page.evaluate(
        """async () => {
          const buffer = new AudioBuffer({ length: 8192, numberOfChannels: 2, sampleRate: 44100 });
          buffer.getChannelData(1)[4096] = 1;
          const filtered = [3500, 7000].map((edge) => earvae.lowPassed(buffer, edge));
          const values = (one) => [0, 1].map((channel) => Array.from(one.getChannelData(channel)));
          return (await Promise.all(filtered)).map(values);
        }"""
    )
    hertz = np.fft.rfftfreq(8192, 1 / RATE)
    for (left, right), edge in zip(responses, (3500, 7000), strict=True):
        assert not np.any(left)
        gain = np.fft.rfft(np.roll(right, -4096))
        # ITU-R BS.1534-3 of the low anchor: 0.1 dB up to 3.5 kHz, 25 dB off at 4, 50 at 4.5 kHz
        assert np.abs(20 * np.log10(gain[hertz <= edge].real)).max() < 0.1
        assert np.abs(gain.imag).max() < 1e-5  # no delay
        assert np.abs(gain[hertz >= edge + 500]).max() < 10 ** (-50 / 20)


def test_the_order_of_versions_is_drawn_evenly(visit):
    page = visit("mushra.html")
    counts = np.array(page.evaluate(
        """() => {
          const counts = [0, 1, 2, 3].map(() => [0, 0, 0, 0]);
          for (let n = 0; n < 2000; n += 1) {
            earvae.shuffled([0, 1, 2, 3]).forEach((value, place) => { counts[value][place] += 1; });
          }
          return counts;
        }"""
    ))  # fmt: skip
    assert counts.min() > 380 and counts.max() < 620  # six standard deviations
