"""A whole evaluation: physical truths through every step, resuming, and what fails."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from earvae.errors import WriteError
from earvae.evaluation import evaluate as module
from earvae.evaluation import figures as table
from earvae.evaluation import tables
from earvae.evaluation.evaluate import evaluate
from earvae.evaluation.excerpts import SAMPLE_RATE, Span, Track, references
from earvae.evaluation.metrics.image import CUES
from earvae.evaluation.metrics.loudness import Loudness
from earvae.evaluation.results import Result, Results
from earvae.evaluation.systems import System, UnusableSystem
from earvae.evaluation.systems.checks import Check
from earvae.evaluation.systems.folder import Folder
from earvae.tracks import find
from tests.small import CLIPS

SPAN = Span(3.2)


class Made(System):
    """A codec out of a function, which counts its calls."""

    def __init__(self, name: str, function: Callable[[Tensor], Tensor], version: int = 1) -> None:
        self.name, self.description, self.function = name, f"the test's {name}", function
        self.version, self.calls = version, 0

    @property
    def settings(self) -> dict:
        return {"codec": self.name, "version": self.version}

    def round_trip(self, audio: Tensor) -> Tensor:
        self.calls += 1
        return self.function(audio)


def find_tracks(folder: Path) -> list[Track]:
    return references(find([folder]).files)


def raising(error: BaseException) -> Callable[..., Tensor]:
    def function(*_arguments: object) -> Tensor:
        raise error

    return function


def truths() -> list[System]:
    return [
        Check("identity"),
        Check("flip"),
        Check("mono"),
        Made("gain", lambda audio: audio * 10 ** (-6 / 20)),
        Made("late", lambda audio: torch.nn.functional.pad(audio, (10, 0))),
        Made("swap", lambda audio: audio.flip(0)),
        Made("silence", torch.zeros_like),
    ]


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    """Two short tracks, one of them in a subfolder."""
    folder = tmp_path_factory.mktemp("music")
    (folder / "sub").mkdir()
    for name, target in (("van_mission2", "a.wav"), ("automat", "sub/b.wav")):
        audio, rate = soundfile.read(CLIPS / f"{name}.flac", frames=4 * SAMPLE_RATE)
        soundfile.write(folder / target, audio, rate)
    return folder


@pytest.fixture(scope="module")
def outcome(music, tmp_path_factory) -> tuple[Results, Path]:
    out = tmp_path_factory.mktemp("out")
    results, failures = evaluate(find_tracks(music), truths(), out, SPAN)
    assert failures == []
    tables.write_all(results, out)
    return results, out


@pytest.fixture(scope="module")
def of(outcome) -> Callable[..., Result]:
    """A codec's result on a track."""
    return lambda codec, track="a.wav": outcome[0].result_of[codec, track]


# ------------------------------------------------------------------ physical truths


@pytest.mark.parametrize("track", ["a.wav", "sub/b.wav"])
def test_identity_and_flipped_polarity_are_perfect(of, track):
    for codec in ("identity", "flip"):
        row = of(codec, track)
        figures = row.metrics
        assert row.lag_samples == 0 and row.error is None
        assert min(figures[m] for m in ("si_sdr", "mid_si_sdr", "side_si_sdr")) > 100
        assert max(figures[m] for m in ("mel", "stft", "lsd_high", *CUES)) < 1e-6
        assert min(figures["icpc"], figures["ccpc"]) == pytest.approx(1, abs=1e-6)
        assert all(figures[m] == 0 for m in ("lufs_difference", "lra_difference"))
        assert figures["true_peak_difference"] == pytest.approx(0, abs=1e-3)


def test_gain_leaves_si_sdr_unmoved_and_shifts_loudness_by_exactly_that(of):
    figures = of("gain").metrics
    assert figures["si_sdr"] > 100
    assert figures["lufs_difference"] == pytest.approx(-6, abs=1e-3)
    assert figures["true_peak_difference"] == pytest.approx(-6, abs=1e-3)
    assert figures["lra_difference"] == pytest.approx(0, abs=1e-3)


def test_delay_of_ten_samples_is_reported_and_removed(of):
    row = of("late")
    assert row.lag_samples == 10
    assert row.metrics["si_sdr"] > 100 and row.metrics["mel"] < 1e-6


def test_channel_swap_destroys_the_image_and_keeps_mid_and_side(of):
    row = of("swap")
    assert row.lag_samples == 0
    assert row.metrics["ccpc"] < 0.8 and row.metrics["level_error"] > 1
    assert min(row.metrics["mid_si_sdr"], row.metrics["side_si_sdr"]) > 100
    assert row.metrics["lufs_difference"] == pytest.approx(0, abs=1e-6)


def test_mono_fold_down_loses_the_side_and_leaves_mid_alone(of):
    figures = of("mono").metrics
    assert figures["mid_si_sdr"] > 100
    assert figures["side_si_sdr"] == pytest.approx(-80)
    assert figures["ccpc"] < 0.9 and figures["coherence_error"] > 0.1
    assert figures["lufs_difference"] < 0


def test_silence_scores_the_worst_and_has_no_loudness(of, outcome):
    row = of("silence")
    assert row.metrics["si_sdr"] == pytest.approx(-80)
    assert row.metrics["icpc"] == row.metrics["ccpc"] == 0
    assert row.metrics["lufs_difference"] is None
    assert row.loudness == Loudness()
    summary = outcome[0].summary_of["silence", "lufs_difference"]
    assert (summary.mean, summary.count) == (None, 0)
    assert summary.skipped == ["a.wav", "sub/b.wav"]


def test_silent_reference_is_counted_and_enters_no_mean(tmp_path):
    for name, gain in (("music", 1.0), ("silence", 0.0)):
        audio, rate = soundfile.read(CLIPS / "automat.flac", frames=2 * SAMPLE_RATE)
        soundfile.write(tmp_path / f"{name}.wav", gain * audio, rate)
    results, failures = evaluate(find_tracks(tmp_path), [Check("flip")], tmp_path / "out", SPAN)
    assert failures == []
    tables.write_all(results, tmp_path / "out")
    silent = results.results[1]
    assert silent.error is None and set(silent.metrics.values()) == {None}
    assert results.tracks[1].loudness.lufs is None
    summary = results.summary_of["flip", "si_sdr"]
    assert (summary.count, summary.skipped) == (1, ["silence.wav"])
    assert summary.mean > 100


def test_every_figure_of_the_table_is_measured(of):
    listed = [key for figure in table.listed(judges=False) for key in figure.keys]
    assert list(of("gain").metrics) == listed
    known = {key for key, value in of("gain").metrics.items() if value is not None}
    rare = ("panning", "lines", "kept", "invented")  # not every track has panned sounds and lines
    assert known >= {key for key in listed if not key.startswith(rare)}


def test_gain_is_heard_by_what_is_meant_to_hear_it(of):
    figures = of("gain").metrics
    assert figures["level_1-2"] == pytest.approx(-6, abs=1e-3)
    assert figures["sdr_1-2"] == pytest.approx(-20 * math.log10(1 - 10 ** (-6 / 20)), abs=1e-3)
    assert figures["repetition_1-2"] == pytest.approx(0, abs=1e-3)


# ------------------------------------------------------------------ what is written


def test_results_have_the_form_that_the_page_reads(outcome, of):
    results, out = outcome
    assert Results.read(out / "results.json") == results
    assert results.settings.seconds == 3.2 and results.settings.start == "middle"
    assert [codec.name for codec in results.codecs] == [
        *("identity", "flip", "mono", "gain", "late", "swap", "silence")
    ]
    track = results.tracks[1]
    assert (track.name, track.slug, track.seconds) == ("sub/b.wav", "sub_b", 3.2)
    assert track.loudness.lufs < 0 and track.loudness.true_peak_db is not None


def test_audio_of_every_codec_is_aligned_and_as_long_as_the_reference(outcome):
    folder = outcome[1] / "audio" / "sub_b"
    reference, rate = soundfile.read(folder / "reference.wav")
    assert rate == SAMPLE_RATE and len(reference) == round(3.2 * SAMPLE_RATE)
    for codec in outcome[0].codecs:
        audio, _ = soundfile.read(folder / f"{codec.name}.wav")
        assert audio.shape == reference.shape
    late, _ = soundfile.read(folder / "late.wav")
    assert np.array_equal(late[:-10], reference[:-10])
    assert soundfile.info(folder / "late.wav").subtype == "FLOAT"


def test_csv_has_a_line_for_each_codec_and_track(outcome):
    with (outcome[1] / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14
    gain = next(row for row in rows if row["codec"] == "gain" and row["track"] == "sub/b.wav")
    assert float(gain["lufs_difference"]) == pytest.approx(-6, abs=1e-3)
    assert float(gain["lufs"]) - float(gain["reference_lufs"]) == pytest.approx(-6, abs=1e-3)
    assert "coherence_error_16000" in gain
    assert next(row for row in rows if row["codec"] == "silence")["lufs"] == ""


def test_markdown_table_is_in_the_papers_column_order(outcome):
    text = (outcome[1] / "results.md").read_text()
    header = next(line for line in text.splitlines() if line.startswith("| codec"))
    places = [header.index(n) for n in ("Mel", "STFT", "ICPC", "CCPC", "SI-SDR", "Δ LUFS")]
    assert places == sorted(places)
    gain = next(line for line in text.splitlines() if line.startswith("| gain"))
    assert "| −6.00 (−6.00 … −6.00) |" in gain and "100.00" in gain
    assert "| – |" in next(line for line in text.splitlines() if line.startswith("| silence"))


def test_published_keys_hold_the_means(outcome):
    published = json.loads((outcome[1] / "evaluation_results.json").read_text())["gain"]
    assert list(published) == [
        "model_name",
        "file_count",
        "avg_sisdr",
        "avg_mel_distance",
        "avg_stft_distance",
        "avg_per_channel_coherence",
        "avg_interchannel_coherence",
        "avg_gen_lufs-i",
        "avg_gen_lra",
        "avg_gen_true_peak",
        "avg_gt_lufs-i",
        "avg_gt_lra",
        "avg_gt_true_peak",
    ]
    assert published["file_count"] == 2 and published["model_name"] == "gain"
    difference = published["avg_gen_lufs-i"] - published["avg_gt_lufs-i"]
    assert difference == pytest.approx(-6, abs=1e-3)


# ------------------------------------------------------------------ resuming


def one_track(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    audio, rate = soundfile.read(CLIPS / "automat.flac", frames=SAMPLE_RATE)
    soundfile.write(folder / "a.wav", audio, rate)
    return folder


def test_what_is_done_is_not_done_again_until_something_changes(tmp_path, monkeypatch):
    folder, out = one_track(tmp_path / "music"), tmp_path / "out"
    codec = Made("x", lambda audio: audio)

    def again(span: Span = SPAN) -> Results:
        return evaluate(find_tracks(folder), [codec], out, span)[0]

    first = again()
    assert codec.calls == 1
    assert again() == first and codec.calls == 1
    again(Span(0.5))
    assert codec.calls == 2  # another stretch
    again()
    assert codec.calls == 3  # of which the audio was replaced
    codec.version = 2
    again()
    assert codec.calls == 4
    monkeypatch.setattr(table, "VERSION", 99)
    again()
    assert codec.calls == 5
    monkeypatch.setattr(table, "BY_KEY", {"mel": table.BY_KEY["mel"]})  # another list of figures
    again()
    assert codec.calls == 6
    audio, rate = soundfile.read(folder / "a.wav")
    soundfile.write(folder / "a.wav", audio * 0.5, rate)
    again()
    assert codec.calls == 7
    (out / "audio" / "a" / "x.wav").unlink()
    again()
    assert codec.calls == 8
    (out / "cache" / "a" / "x.json").write_text("{")
    again()
    assert codec.calls == 9


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    folder, out = one_track(tmp_path / "music"), tmp_path / "out"
    first = Made("first", lambda audio: audio)
    with pytest.raises(KeyboardInterrupt):
        evaluate(find_tracks(folder), [first, Made("x", raising(KeyboardInterrupt()))], out, SPAN)
    results, _ = evaluate(find_tracks(folder), [first, Made("x", lambda audio: audio)], out, SPAN)
    assert first.calls == 1 and len(results.results) == 2
    assert not list(out.rglob("*.partial"))


def test_interruption_while_writing_leaves_no_row_for_other_audio(tmp_path, monkeypatch):
    folder, out = one_track(tmp_path / "music"), tmp_path / "out"
    codec = Made("x", lambda audio: audio)
    evaluate(find_tracks(folder), [codec], out, SPAN)
    codec.version = 2
    keep = module.atomic.write
    monkeypatch.setattr(module.atomic, "write", raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        evaluate(find_tracks(folder), [codec], out, SPAN)
    monkeypatch.setattr(module.atomic, "write", keep)
    codec.version, calls = 1, codec.calls
    evaluate(find_tracks(folder), [codec], out, SPAN)
    assert codec.calls == calls + 1


# ------------------------------------------------------------------ failures


def test_what_fails_is_a_line_and_the_others_go_on(tmp_path):
    folder = one_track(tmp_path / "music")
    (folder / "broken.wav").write_text("no audio")
    systems = [
        Made("clear", raising(UnusableSystem("asks for less"))),
        Made("bug", raising(KeyError("latents"))),
        Made("nan", lambda audio: audio * math.nan),
        Made("short", lambda audio: audio[:, :10]),
        Made("memory", raising(MemoryError())),
        Folder(tmp_path, "folder"),
        Made("good", lambda audio: audio),
    ]
    results, failures = evaluate(find_tracks(folder), systems, tmp_path / "out", SPAN)
    errors = {row.codec: row.error for row in results.results}
    assert errors["good"] is None and errors["clear"] == "asks for less"
    assert errors["bug"] == "KeyError: 'latents'"
    assert "not finite" in errors["nan"] and "10 of the reference's" in errors["short"]
    assert "out of memory" in errors["memory"]
    assert "no reconstruction of a.wav" in errors["folder"]
    assert [track.name for track in results.tracks] == ["a.wav"]
    assert len(failures) == 7 and "broken.wav" in failures[-1]
    assert "clear, a.wav: asks for less" in failures
    tables.write_all(results, tmp_path / "out")  # failed rows have no figures
    assert {row.codec for row in results.summary} == {"good"}
    text = (tmp_path / "out" / "results.md").read_text()
    assert "Failed on 1 tracks" in text


def test_a_folder_and_codecs_by_name_are_enough(tmp_path):
    folder = one_track(tmp_path / "ref").parent
    codecs = {"half": lambda audio, rate: audio / 2, "same": "identity", "bad": "folder:none"}
    found, failures = evaluate(str(folder), codecs, str(tmp_path / "out"), SPAN)
    assert [codec.name for codec in found.codecs] == ["half", "same"]
    assert found.results[0].metrics["lufs_difference"] == pytest.approx(-6.02, abs=0.01)
    assert len(failures) == 1 and "no such folder" in failures[0]


def test_tracks_shorter_than_the_metrics_need_are_lines(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((500, 2)), SAMPLE_RATE)
    results, _ = evaluate(find_tracks(tmp_path), [Check("identity")], tmp_path / "out", SPAN)
    assert "too short" in results.results[0].error
    assert results.tracks[0].loudness.lufs is None


def test_a_place_that_cannot_be_written_ends_it(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(WriteError, match="out: cannot be written"):
        evaluate(
            find_tracks(one_track(tmp_path / "music")), [Check("identity")], tmp_path / "out", SPAN
        )


def test_ready_reconstructions_of_whole_tracks_are_compared_over_the_same_stretch(music, tmp_path):
    """A delayed copy of each whole track, at another rate, with the last samples lost."""
    import soxr

    for track in find_tracks(music):
        audio, rate = soundfile.read(track.path)
        audio = soxr.resample(np.pad(audio, ((441, 0), (0, 0)))[:-100], rate, 48_000)
        (tmp_path / track.name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / track.name, audio, 48_000, subtype="FLOAT")
    folder = Folder(tmp_path, "made")
    for span in (Span(2.0, start=1.0), Span(None)):
        results, failures = evaluate(find_tracks(music), [folder], tmp_path / "out", span)
        assert failures == []
        for row in results.results:
            assert row.lag_samples == 441
            assert row.metrics["si_sdr"] > 30 and row.metrics["icpc"] > 0.999
