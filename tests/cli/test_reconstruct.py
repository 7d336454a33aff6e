"""``earvae reconstruct``: every kind of input, every kind of trouble."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from earvae import codec
from earvae.audio import read_audio
from earvae.signals import heed
from tests.small import GOLDEN, compact, load


@pytest.fixture(autouse=True)
def _packing(use_model):
    """A codec that changes nothing, unless a test says otherwise."""


def error_lines(result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


# ------------------------------------------------------------------------------ inputs


@pytest.mark.parametrize("samples", [1, 15, 16, 17, 30_001, 70_000])
def test_at_the_models_rate_an_identity_codec_returns_the_file(tmp_path, earvae, music, samples):
    source = music(tmp_path / "a.wav", samples=samples, subtype="FLOAT")
    assert earvae("reconstruct", source, "-o", tmp_path / "out.wav").exit_code == 0
    (ours, rate), (original, _) = load(tmp_path / "out.wav"), load(source)
    assert rate == 44_100 and np.array_equal(ours, original)
    assert soundfile.info(tmp_path / "out.wav").subtype == "FLOAT"


@pytest.mark.parametrize(
    "name,rate,channels,how",
    [
        ("a.flac", 48_000, 2, {"subtype": "PCM_24"}),
        ("a.wav", 22_050, 1, {"subtype": "PCM_16"}),
        ("a.wav", 96_000, 2, {"subtype": "FLOAT"}),
        ("a.mp3", 44_100, 2, {}),
        ("a.mp3", 48_000, 1, {}),
        ("a.opus", 48_000, 2, {"format": "OGG", "subtype": "OPUS"}),
        ("a.ogg", 32_000, 2, {"format": "OGG", "subtype": "VORBIS"}),
        ("a.aiff", 11_025, 2, {}),
    ],
)
def test_rate_length_channels_and_timing_are_kept(
    tmp_path, earvae, music, name, rate, channels, how
):
    source = music(tmp_path / name, rate, channels, **how)
    assert earvae("reconstruct", source, "-o", tmp_path / "out.wav").exit_code == 0
    (ours, found_rate), (original, _) = load(tmp_path / "out.wav"), load(source)
    assert found_rate == rate and ours.shape == original.shape
    inner = slice(1_000, -1_000)  # tones that start at once ring at the edges when resampled
    np.testing.assert_allclose(ours[:, inner], original[:, inner], atol=2e-3)


def test_mono_is_written_as_stereo_when_asked(tmp_path, earvae, music):
    source = music(tmp_path / "a.wav", channels=1, subtype="FLOAT")
    assert earvae("reconstruct", source, "-o", tmp_path / "o.wav", "--stereo").exit_code == 0
    ours, original = load(tmp_path / "o.wav")[0], load(source)[0]
    assert np.array_equal(ours, np.repeat(original, 2, axis=0))


def test_surround_is_refused_with_advice_and_the_advice_works(tmp_path, earvae, music):
    source = music(tmp_path / "a.wav", channels=6)
    result = earvae("reconstruct", source, "-o", tmp_path / "o.wav")
    assert result.exit_code == 1
    assert "6 channels" in result.stderr and "--downmix" in result.stderr
    assert earvae("reconstruct", source, "-o", tmp_path / "o.wav", "--downmix").exit_code == 0
    assert load(tmp_path / "o.wav")[0].shape == (2, 30_001)


# ------------------------------------------------------------------------------ trouble


def damaged(kind: str, folder: Path, music) -> Path:
    path = folder / f"{kind}.wav"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("this is not audio\n" * 20)
    elif kind == "headless":
        soundfile.write(path, np.zeros((0, 2)), 44_100)
    elif kind == "nan":
        values = np.zeros((1_000, 2), np.float32)
        values[500] = np.nan
        soundfile.write(path, values, 44_100, subtype="FLOAT")
    elif kind == "cut":
        path = music(folder / "cut.flac", samples=100_000)
        path.write_bytes(path.read_bytes()[:20_000])
    elif kind == "cut wav":
        path = music(folder / "cut.wav", samples=100_000)
        path.write_bytes(path.read_bytes()[:20_000])
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "surround":
        music(path, channels=6)
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    "kind",
    "empty text headless nan cut surround folder missing pipe".split() + ["cut wav"],
)
def test_a_bad_file_is_one_line_and_the_others_are_done(tmp_path, earvae, music, kind):
    good = [music(tmp_path / name) for name in ("first.wav", "last.wav")]
    bad = damaged(kind, tmp_path, music)
    result = earvae("reconstruct", good[0], bad, good[1], "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert len(error_lines(result)) == 1 and str(bad) in error_lines(result)[0]
    assert sorted(os.listdir(tmp_path / "out")) == ["first.wav", "last.wav"]


def test_an_unwritable_folder_is_one_line(tmp_path, earvae, music):
    source = music(tmp_path / "a.wav")
    (tmp_path / "file").touch()
    result = earvae("reconstruct", source, "-o", tmp_path / "file" / "o.wav")
    assert result.exit_code == 1
    assert len(error_lines(result)) == 1 and "cannot be written" in result.stderr


def test_a_terminated_command_leaves_no_temporary_file(tmp_path, monkeypatch, earvae, music):
    source = music(tmp_path / "a.wav")
    begun = []

    def terminated(*_):
        begun.extend(os.listdir(tmp_path / "out"))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)  # the signal ends this at once

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("earvae.audio.writing._verify", terminated)
    undo = heed()
    try:
        result = earvae("reconstruct", source, "-o", f"{tmp_path}/out/")
    finally:
        undo()
    assert result.exit_code == 143 and len(begun) == 1
    assert os.listdir(tmp_path / "out") == [] and signal.getsignal(signal.SIGTERM) is handler


def test_failures_are_counted_at_the_end(tmp_path, earvae, music):
    music(tmp_path / "in" / "good.wav")
    damaged("text", tmp_path / "in", music)
    damaged("empty", tmp_path / "in", music)
    result = earvae("reconstruct", tmp_path / "in", "-o", tmp_path / "out")
    assert result.exit_code == 1 and "1 done, 2 failed" in result.stderr


# ------------------------------------------------------------------------------ where it goes


def test_folders_keep_subfolders_and_skip_what_is_hidden(tmp_path, earvae, music):
    for name in ("a.flac", "b/c.wav", "b/d/e.MP3", ".hidden.wav", ".hidden/f.wav"):
        music(tmp_path / "in" / name, samples=2_000)
    (tmp_path / "in" / "cover.jpg").touch()
    assert earvae("reconstruct", tmp_path / "in", "-o", tmp_path / "out").exit_code == 0
    found = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*"))
    assert found == ["a.wav", "b/c.wav", "b/d/e.wav"]


def test_the_files_of_a_manifest_are_done(tmp_path, earvae, music):
    music(tmp_path / "in" / "a.wav"), music(tmp_path / "in" / "b" / "c.wav")
    (tmp_path / "in" / "list.jsonl").write_text('{"file": "b/c.wav"}\n[]\n')
    result = earvae("reconstruct", tmp_path / "in" / "list.jsonl", "-o", tmp_path / "out")
    assert result.exit_code == 1 and "list.jsonl: line 2" in result.stderr
    assert [path.name for path in (tmp_path / "out").rglob("*.wav")] == ["c.wav"]


def test_output_inside_the_input_folder_is_not_read_again(tmp_path, earvae, music):
    music(tmp_path / "a.wav")
    for _ in range(2):
        assert earvae("reconstruct", tmp_path, "-o", tmp_path / "out").exit_code == 0
    assert [p.name for p in (tmp_path / "out").rglob("*")] == ["a.wav"]


def test_one_file_into_an_existing_folder(tmp_path, earvae, music):
    (tmp_path / "out").mkdir()
    assert earvae("reconstruct", music(tmp_path / "a.flac"), "-o", tmp_path / "out").exit_code == 0
    assert os.listdir(tmp_path / "out") == ["a.wav"]


def test_an_output_that_ends_in_a_slash_is_a_folder(tmp_path, earvae, music):
    assert (
        earvae("reconstruct", music(tmp_path / "a.flac"), "-o", f"{tmp_path}/x.wav/").exit_code == 0
    )
    assert os.listdir(tmp_path / "x.wav") == ["a.wav"]


def test_a_missing_input_is_named_whatever_the_output(tmp_path, earvae):
    for output in ("out.wav", "out", "out/"):
        result = earvae("reconstruct", tmp_path / "gone", "-o", f"{tmp_path}/{output}")
        assert result.exit_code == 1 and "gone: no such file" in result.stderr
    assert os.listdir(tmp_path) == []


def test_files_that_differ_in_their_suffix_alone_keep_it(tmp_path, earvae, music):
    for number, name in enumerate(("a.wav", "A.flac", "b.flac")):
        music(tmp_path / "in" / name, samples=1000 + number)
    latents = tmp_path / "latents"
    assert earvae("encode", tmp_path / "in", "-o", latents).exit_code == 0
    kept = ["A.flac.safetensors", "a.wav.safetensors", "b.safetensors"]
    assert sorted(os.listdir(latents)) == kept
    for verb, source in (("reconstruct", tmp_path / "in"), ("decode", latents)):
        result = earvae(verb, source, "-o", tmp_path / verb)
        assert result.exit_code == 0, result.output
        lengths = {name: load(tmp_path / verb / name)[0].shape[1] for name in
                   ("a.wav.wav", "A.flac.wav", "b.wav")}  # fmt: skip
        assert list(lengths.values()) == [1000, 1001, 1002]


def test_two_inputs_for_one_output_are_refused_before_anything_is_done(tmp_path, earvae, music):
    pair = [music(tmp_path / name) for name in ("1/a.wav", "2/a.wav")]
    result = earvae("reconstruct", *pair, "-o", tmp_path / "out")
    assert result.exit_code == 2 and "both become" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["same", "folder", "link", "hard link"])
def test_an_input_is_never_written_onto(tmp_path, earvae, music, how):
    source = music(tmp_path / "a.wav")
    before = source.read_bytes()
    output = {"same": source, "folder": tmp_path}.get(how, tmp_path / "other.wav")
    if how == "link":
        output.symlink_to(source)
    if how == "hard link":
        os.link(source, output)
    result = earvae("reconstruct", source, "-o", output)
    assert result.exit_code == 2 and "is the input" in result.stderr
    assert source.read_bytes() == before


def test_the_published_scripts_flags_work(tmp_path, earvae, music):
    music(tmp_path / "in" / "song.wav")
    result = earvae("reconstruct", "--indir", tmp_path / "in", "--outdir", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert os.listdir(tmp_path / "out") == ["song_earvae.wav"]


# ------------------------------------------------------------------------------ options


def test_overshoot_is_kept_in_floats_and_scaled_down_in_integers_unless_told_otherwise(
    tmp_path, earvae, music, use_model
):
    use_model(gain=5.0)
    source = music(tmp_path / "a.wav", subtype="FLOAT")
    original = load(source)[0]
    assert earvae("reconstruct", source, "-o", tmp_path / "f.wav").exit_code == 0
    np.testing.assert_allclose(load(tmp_path / "f.wav")[0], 5 * original, rtol=1e-6)
    default = earvae("reconstruct", source, "-o", tmp_path / "i.flac")
    assert default.exit_code == 0 and "1 of 1 went beyond full scale" in default.stdout
    assert np.abs(load(tmp_path / "i.flac")[0]).max() == pytest.approx(1, abs=2**-22)
    none = earvae("reconstruct", source, "-o", tmp_path / "n.flac", "--clip", "none")
    assert none.exit_code == 1 and not (tmp_path / "n.flac").exists()
    run = ["reconstruct", source, "--json", "-o"]
    clamped = earvae(*run, tmp_path / "c.flac", "--clip", "clamp")
    np.testing.assert_allclose(
        load(tmp_path / "c.flac")[0], (5 * original).clip(-1, 1), atol=2**-22
    )
    scaled = earvae(*run, tmp_path / "s.wav", "--subtype", "pcm_24")
    peak = float(np.abs(5 * original).max())
    np.testing.assert_allclose(load(tmp_path / "s.wav")[0], 5 * original / peak, atol=2**-22)
    assert json.loads(scaled.stdout)[0]["peak"] == pytest.approx(peak)
    assert json.loads(clamped.stdout)[0]["clamped"] == np.count_nonzero(np.abs(5 * original) > 1)


def test_sampling_repeats_with_its_seed_in_any_chunks(tmp_path, earvae, music):
    source = music(tmp_path / "a.wav", samples=100_000)

    def sampled(name: str, *options) -> np.ndarray:
        result = earvae("reconstruct", source, "-o", tmp_path / name, "--sample", *options)
        assert result.exit_code == 0
        return load(tmp_path / name)[0]

    first = sampled("1.wav", "--seed", 7)
    assert np.array_equal(first, sampled("2.wav", "--seed", 7, "--chunk-seconds", 0.3))
    assert not np.array_equal(first, sampled("3.wav", "--seed", 8))
    assert not np.array_equal(sampled("4.wav"), sampled("5.wav"))


def test_the_report_says_what_was_done(tmp_path, earvae, music):
    source = music(tmp_path / "a.flac", 48_000)
    result = earvae("reconstruct", source, "-o", tmp_path / "o.wav", "--json")
    (report,) = json.loads(result.stdout)
    assert report["samples"] == 30_001 and report["rate"] == 48_000
    assert report["duration"] == pytest.approx(30_001 / 48_000, abs=1e-6)
    assert report["si_sdr"] > 40 and report["seed"] is None
    assert report["peak"] == pytest.approx(0.3, abs=0.01)
    table = earvae("reconstruct", source, "-o", tmp_path / "o.wav").stdout
    assert "30001" in table and "SI-SDR" in table


def test_any_file_name_will_do(tmp_path, earvae, music):
    name = os.fsdecode("ü [bold] ".encode() + b"\xff.wav")  # markup, and no valid UTF-8
    (tmp_path / "in").mkdir()
    os.rename(music(tmp_path / "plain.wav"), tmp_path / "in" / name)
    result = earvae("reconstruct", tmp_path / "in", "-o", tmp_path / "out")
    assert result.exit_code == 0 and "[bold]" in result.stdout
    assert os.listdir(tmp_path / "out") == [name]


def test_a_folder_in_another_format(tmp_path, earvae, music):
    music(tmp_path / "in" / "a.wav")
    run = ["reconstruct", tmp_path / "in", "-o", tmp_path / "out", "--format", "flac"]
    assert earvae(*run).exit_code == 0
    assert soundfile.info(tmp_path / "out" / "a.flac").subtype == "PCM_24"


def test_silence_has_no_si_sdr(tmp_path, earvae):
    soundfile.write(tmp_path / "a.wav", np.zeros((1_000, 2)), 44_100)
    result = earvae("reconstruct", tmp_path / "a.wav", "-o", tmp_path / "o.wav", "--json")
    assert json.loads(result.stdout)[0]["si_sdr"] is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.wav"],
        ["-o", "out.wav"],
        ["a.wav", "-o", "out.mp3"],
        ["a.wav", "-o", "out"],
        ["a.wav", "-o", "out.wav", "--seed", "3"],
        ["a.wav", "-o", "out.wav", "--clip", "squash"],
        ["a.wav", "-o", "out.wav", "--subtype", "pcm_12"],
        ["a.wav", "-o", "out.wav", "--outdir", "out"],
        ["a.wav", "-o", "out.wav", "--format", "caf"],
        ["a.wav", "b.wav", "-o", "a.wav"],
        ["a.wav", "-o", "out.wav", "--no-such-option"],
    ],
)
def test_commands_that_cannot_be_meant_have_status_2(
    tmp_path, monkeypatch, earvae, music, arguments
):
    monkeypatch.chdir(tmp_path)
    music(Path("a.wav")), music(Path("b.wav"))
    assert earvae("reconstruct", *arguments).exit_code == 2
    assert sorted(os.listdir()) == ["a.wav", "b.wav"]


# ------------------------------------------------------------------------------ real models


def test_the_command_is_the_library(tmp_path, monkeypatch, earvae, music):
    monkeypatch.undo()
    vae = compact()
    vae.save_pretrained(tmp_path / "model")
    source = music(tmp_path / "a.wav", subtype="FLOAT")
    run = ["reconstruct", source, "-o", tmp_path / "o.wav", "--weights", tmp_path / "model"]
    assert earvae(*run, "--chunk-seconds", 0.2, "--device", "cpu").exit_code == 0
    expected = codec.reconstruct(vae, read_audio(source, 44_100)[None])[0].numpy()
    np.testing.assert_allclose(
        load(tmp_path / "o.wav")[0], expected, atol=1e-4 * np.abs(expected).max()
    )


def test_published_weights_run_with_their_flags(tmp_path, monkeypatch, earvae, music):
    monkeypatch.undo()
    music(tmp_path / "in" / "song.flac", 44_100, samples=10_000)
    result = earvae(
        "reconstruct",
        *("--indir", tmp_path / "in", "--outdir", tmp_path / "out", "--device", "cpu"),
        *("--model_path", GOLDEN / "tiny48k_state_dict.safetensors"),
        *("--config", GOLDEN / "tiny48k_config.json"),
    )
    assert result.exit_code == 0, result.output
    ours, rate = load(tmp_path / "out" / "song_tiny48k_state_dict.wav")
    assert ours.shape == (2, 10_000) and rate == 44_100


@pytest.mark.parametrize(
    "options,complaint",
    [
        (["--weights", "no/such/thing/here"], "no such file or folder"),
        (["--weights", "broken.safetensors"], "broken.safetensors"),
        (["--device", "warp"], "--device warp"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_one_line(
    tmp_path, monkeypatch, earvae, music, options, complaint
):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    Path("broken.safetensors").write_bytes(b"nothing of the kind")
    music(Path("a.wav"))
    result = earvae("reconstruct", "a.wav", "-o", "o.wav", *options)
    assert result.exit_code == 1
    assert len(error_lines(result)) == 1 and complaint in error_lines(result)[0]
