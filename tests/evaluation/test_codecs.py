"""The codecs that are compared."""

from __future__ import annotations

import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from earvae import codec as chunked
from earvae.errors import WeightsError
from earvae.evaluation.align import find_lag
from earvae.evaluation.excerpts import (
    SAMPLE_RATE,
    Excerpt,
    Span,
    Track,
    read_excerpt,
    references,
)
from earvae.evaluation.metrics import si_sdr
from earvae.evaluation.systems import UnusableSystem
from earvae.evaluation.systems.checks import Check
from earvae.evaluation.systems.ffmpeg import FfmpegCodec
from earvae.evaluation.systems.folder import Folder
from earvae.evaluation.systems.function import Function
from earvae.evaluation.systems.linear import LinearBaseline
from earvae.evaluation.systems.models import EarVAESystem, Oobleck
from earvae.evaluation.systems.registry import SpecError, make, make_all
from earvae.tracks import find
from tests.small import CLIPS, clip, compact

CLIP = CLIPS / "automat.flac"
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")


def find_tracks(folder: Path) -> list[Track]:
    return references(find([folder]).files)


@pytest.fixture(scope="module")
def music() -> torch.Tensor:
    return clip("automat", 100_000)


# ------------------------------------------------------------------ plain ones


def test_sanity_codecs_do_what_they_say(music):
    assert torch.equal(Check("identity").round_trip(music), music)
    assert torch.equal(Check("flip").round_trip(music), -music)
    mono = Check("mono").round_trip(music)
    assert torch.equal(mono[0], mono[1])
    torch.testing.assert_close(mono.sum(0), music.sum(0))


def test_model_is_run_as_reconstruct_runs_it_and_known_by_its_weights(music):
    vae = compact()
    codec = EarVAESystem(vae)
    assert torch.equal(codec.round_trip(music), chunked.reconstruct(vae, music[None])[0])
    assert codec.settings == {"codec": "earvae", "weights": vae.identity}
    assert codec.parameters == sum(p.numel() for p in vae.parameters())
    assert codec.floats_per_second == pytest.approx(8 * 44_100 / 64)


def test_model_of_another_rate_returns_our_rate_and_length(music):
    returned = EarVAESystem(compact(sample_rate=48_000)).round_trip(music)
    assert returned.shape == music.shape and torch.isfinite(returned).all()


def test_linear_baseline_improves_with_components_and_keeps_the_best_ones_first(music):
    ratios = [float(si_sdr(LinearBaseline(n).round_trip(music), music)) for n in (8, 32, 64)]
    assert ratios == sorted(ratios) and ratios[2] > 5
    code = LinearBaseline(64)
    assert code.name == "linear-64" and code.floats_per_second == pytest.approx(64 * 44_100 / 1024)
    unit = code.basis.T @ code.basis
    torch.testing.assert_close(unit, torch.eye(64), atol=2e-3, rtol=0)


def test_linear_baseline_in_chunks_equals_the_whole(music, monkeypatch):
    code = LinearBaseline(20)
    whole = code.round_trip(music)
    monkeypatch.setattr("earvae.evaluation.systems.linear.CHUNK_FRAMES", 7)
    torch.testing.assert_close(code.round_trip(music), whole, atol=1e-5, rtol=0)


# ------------------------------------------------------------------ ffmpeg


@needs_ffmpeg
@pytest.mark.parametrize("kind,kbps", [("opus", 96), ("mp3", 128), ("vorbis", 96), ("aac", 128)])
def test_ffmpeg_codecs_return_the_music_in_time_and_at_the_rate_asked_for(music, kind, kbps):
    codec = FfmpegCodec(kind, kbps)
    track = find_tracks(CLIP)[0]
    made = codec.reconstruct(Excerpt(track, 0.0, music))
    assert find_lag(made.audio, music) == 0
    assert made.audio.shape[1] >= music.shape[1]
    assert si_sdr(made.audio[:, : music.shape[1]], music) > 8
    assert made.kbps == pytest.approx(kbps, rel=0.35)  # two seconds, and the container
    assert codec.name == f"{kind}-{kbps}" and codec.settings["ffmpeg"]


@needs_ffmpeg
def test_more_bits_are_better(music):
    ratios = [
        float(si_sdr(FfmpegCodec("opus", kbps).round_trip(music)[:, : music.shape[1]], music))
        for kbps in (24, 192)
    ]
    assert ratios[1] > ratios[0] + 5


@pytest.mark.parametrize(
    "spec,possible",
    [("mp3:9999", "32, 40, 48"), ("mp3:100", "96, 112"), ("opus:5", "6 to 510"),
     ("vorbis:44", "45 to 500"), ("aac:529", "24 to 400")],
)  # fmt: skip
def test_rates_that_a_format_does_not_have_are_refused_with_those_it_has(spec, possible):
    with pytest.raises(UnusableSystem, match=f"{spec}: .*{possible}.* kb/s"):
        make(spec)


@needs_ffmpeg
def test_ffmpegs_own_complaint_is_passed_on(music, monkeypatch):
    codec = FfmpegCodec("opus", 96)
    codec.kbps = 9999.0
    with pytest.raises(UnusableSystem, match="opus-96: ffmpeg failed: .*9999"):
        codec.round_trip(music)


def test_without_ffmpeg_there_is_one_clear_line(monkeypatch):
    monkeypatch.setenv("PATH", "")
    systems, failures = make_all(["identity", "opus:96"])
    assert [system.name for system in systems] == ["identity"]
    assert len(failures) == 1 and "opus:96: needs the ffmpeg program" in failures[0]


# ------------------------------------------------------------------ folders


def write(path: Path, audio: torch.Tensor, rate: int = SAMPLE_RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio.numpy().T, rate)


def test_folder_takes_the_same_name_any_format_or_the_published_naming(music, tmp_path):
    for name in ("a/one.wav", "a/two.wav", "three.wav", "four.wav"):
        write(tmp_path / "ref" / name, music[:, :1000])
    made = tmp_path / "made"
    for name in ("a/one.wav", "a/two.flac", "three_vae_rec.wav"):
        write(made / name, music[:, :1000])
    tracks = {track.name: track for track in find_tracks(tmp_path / "ref")}
    folder = Folder(made, "made")
    found = {
        name: folder.file_of(track).name for name, track in tracks.items() if name != "four.wav"
    }
    assert found == {
        "a/one.wav": "one.wav",
        "a/two.wav": "two.flac",
        "three.wav": "three_vae_rec.wav",
    }
    with pytest.raises(UnusableSystem, match="no reconstruction of four.wav"):
        folder.file_of(tracks["four.wav"])
    write(made / "a/two.aiff", music[:, :1000])
    with pytest.raises(UnusableSystem, match="two.aiff, two.flac; keep one"):
        folder.file_of(tracks["a/two.wav"])


def test_reconstructions_beside_their_references_are_found_by_their_name(music, tmp_path):
    for name in ("a/original.wav", "a/theirs.flac", "b/original.wav"):
        write(tmp_path / name, music[:, :1000])
    tracks = {track.name: track for track in find_tracks(tmp_path)}
    system = make("beside:theirs")
    assert system.name == "theirs"
    assert system.file_of(tracks["a/original.wav"]) == tmp_path / "a" / "theirs.flac"
    with pytest.raises(UnusableSystem, match="no theirs.* beside original.wav"):
        system.file_of(tracks["b/original.wav"])


def test_published_pairs_in_one_folder_are_told_apart(music, tmp_path):
    write(tmp_path / "song.wav", music)
    write(tmp_path / "song_vae_rec.wav", music)
    (track,) = find_tracks(tmp_path)
    assert track.name == "song.wav"
    folder = Folder(tmp_path, "published")
    assert folder.file_of(track).name == "song_vae_rec.wav"
    (tmp_path / "song_vae_rec.wav").unlink()
    with pytest.raises(UnusableSystem, match="no reconstruction"):  # and never the reference itself
        folder.file_of(track)


def test_folder_gives_the_stretch_with_what_lies_around_it(music, tmp_path):
    write(tmp_path / "ref" / "a.wav", music)
    write(tmp_path / "made" / "a.wav", music)
    (track,) = find_tracks(tmp_path / "ref")
    excerpt = read_excerpt(track, Span(1.0, start=1.0))
    made = Folder(tmp_path / "made", "made").reconstruct(excerpt)
    assert made.lead == 22_050
    assert torch.equal(made.audio[:, 22_050 : 22_050 + 44_100], excerpt.audio)


def test_folder_is_known_by_the_files_content(music, tmp_path):
    write(tmp_path / "ref" / "a.wav", music[:, :1000])
    write(tmp_path / "made" / "a.wav", music[:, :1000])
    (track,) = find_tracks(tmp_path / "ref")
    folder = Folder(tmp_path / "made", "made")
    before = folder.settings_for(track)
    assert folder.settings_for(track) == before
    write(tmp_path / "made" / "a.wav", music[:, 1:1001])
    assert folder.settings_for(track) != before


def test_folder_refuses_other_sounds_than_its_files(music, tmp_path):
    write(tmp_path / "ref" / "a.wav", music)
    (track,) = find_tracks(tmp_path / "ref")
    folder = Folder(tmp_path / "ref", "made")
    with pytest.raises(UnusableSystem, match="made: holds ready files"):
        folder.round_trip(music)
    with pytest.raises(UnusableSystem, match="leave out --loud"):
        folder.reconstruct(read_excerpt(track, Span(1.0, loud=True)))


# ------------------------------------------------------------------ diffusers


def test_without_diffusers_there_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UnusableSystem, match="needs diffusers: pip install diffusers"):
        make(f"oobleck:{tmp_path}")


def test_a_diffusers_folder_is_loaded_and_run(music, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = diffusers.AutoencoderOobleck(
        encoder_hidden_size=8,
        downsampling_ratios=[2, 4],
        channel_multiples=[1, 2],
        decoder_channels=8,
        decoder_input_channels=4,
        sampling_rate=44_100,
    ).eval()
    model.save_pretrained(tmp_path / "model")
    codec = Oobleck(tmp_path / "model")
    piece = music[:, :4001]
    assert codec.round_trip(piece).shape == piece.shape
    with torch.no_grad():
        padded = torch.nn.functional.pad(piece, (0, 7))[None]
        expected = model.decode(model.encode(padded).latent_dist.mode()).sample[0, :, :4001]
    torch.testing.assert_close(codec.round_trip(piece), expected)
    assert codec.floats_per_second == pytest.approx(4 * 44_100 / 8)
    assert set(codec.settings["files"]) >= {"config.json"}
    with pytest.raises(UnusableSystem, match="no folder of a diffusers model"):
        Oobleck(tmp_path)


# ------------------------------------------------------------------ functions


def halve(audio, rate):
    """Half as loud."""
    assert audio.dtype == np.float32 and rate == SAMPLE_RATE
    return audio / 2


def test_any_function_is_a_codec(music, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n\ndef double(audio, rate):\n    return 2 * torch.from_numpy(audio)\n"
        "double.settings = {'gain': 2}\ndouble.kbps = 9\n\nclass of:\n    value = 3\n"
    )
    place = f"{tmp_path}/mine.py"
    system = make(f"{place}:double")
    assert torch.equal(system.round_trip(music), 2 * music)
    assert (system.name, system.kbps) == ("double", 9)
    assert make(f"loud=python:{place}:double").name == "loud"
    assert make(f"loud={place}:double").settings == system.settings  # kept results are of use
    assert make("python:os.path:join").name == "join"
    for spec, message in (
        (f"{place}:nothing", "there is no nothing in"),
        (f"{place}:of.value", "is no function"),
        (f"{tmp_path}/none.py:f", "no such file"),
        ("python:no.such:f", "there is no module no"),
    ):
        with pytest.raises(UnusableSystem, match=message):
            make(spec)
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(UnusableSystem, match="broken.py: ZeroDivisionError: division by zero"):
        make(f"{tmp_path}/broken.py:f")
    with pytest.raises(SpecError, match="write python:MODULE:FUNCTION"):
        make("python:os")


def test_functions_and_specs_by_name(music):
    systems, failures = make_all({"half": halve, "turned": "flip", "same": Check("identity")})
    assert [system.name for system in systems] == ["half", "turned", "same"] and not failures
    assert torch.equal(systems[0].round_trip(music), music / 2)
    assert systems[0].description == "Half as loud."
    again = make_all({"half": halve})[0][0]
    assert again.settings != systems[0].settings  # nobody knows whether it still does the same
    with pytest.raises(SpecError, match="a row's name"):
        make_all({"a b": halve})


def test_a_function_has_to_return_stereo(music):
    for wrong in (lambda audio, rate: audio[0], lambda audio, rate: audio.T):
        with pytest.raises(UnusableSystem, match="mine: returned .*, not 2 × samples"):
            Function(wrong, "mine").round_trip(music)
    given = Function(lambda audio, rate: audio.fill(0) or audio, "mine")
    assert not given.round_trip(music).any() and music.any()  # ours is not theirs to change


# ------------------------------------------------------------------ neural codecs


class Hold(torch.nn.Module):
    """As DAC: each frame of a channel becomes its mean, in steps of 1/8."""

    hop_length, n_codebooks, codebook_size = 4, 2, 1024

    def __init__(self, sample_rate: int = 44_100) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        self.gain = torch.nn.Parameter(torch.ones(1))

    def encode(self, audio):
        assert audio.shape[1] == 1 and audio.shape[2] % self.hop_length == 0
        frames = audio.unflatten(2, (-1, self.hop_length)).mean(3)
        return self.gain * (8 * frames).round() / 8, None, None, None, None

    def decode(self, latents):
        return latents.repeat_interleave(self.hop_length, 2)


def stand_in(monkeypatch, name: str, **contents) -> None:
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        module = types.ModuleType(".".join(parts[:count]))
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_dac_runs_with_the_weights_that_its_package_provides(music, tmp_path, monkeypatch):
    model = Hold()
    content = {
        "metadata": {"kwargs": {"sample_rate": 44_100, "of_another_version": 1}},
        "state_dict": {"gain": torch.tensor([0.5])},
    }
    torch.save(content, tmp_path / "weights.pth")
    asked = []
    download = lambda *model: asked.append(model) or tmp_path / "weights.pth"  # noqa: E731
    stand_in(monkeypatch, "dac.utils", DAC=Hold, download=download)
    monkeypatch.setattr("earvae.evaluation.systems.neural.PIECE_SECONDS", 0.3)
    piece = music[:, :30_001]
    system = make("dac")
    padded = torch.nn.functional.pad(piece, (0, 3))[:, None]
    expected = 0.5 * model.decode(model.encode(padded)[0])[:, 0, :30_001]
    torch.testing.assert_close(system.round_trip(piece), expected)  # in pieces as in one
    assert asked == [("44khz", "8kbps")]
    assert system.kbps == pytest.approx(2 * 2 * 10 * 44.1 / 4)
    assert system.name == "dac-44khz" and system.parameters == 1
    with pytest.raises(UnusableSystem, match="dac:9: there are 44khz, 44khz-16kbps, 24khz, 16khz"):
        make("dac:9")

    def fail(*model):
        raise ConnectionError("no route to host")

    stand_in(monkeypatch, "dac.utils", DAC=Hold, download=fail)
    with pytest.raises(UnusableSystem, match="cannot be had .no route to host.*network"):
        make("dac")


def test_weights_of_dac_that_would_run_code_are_not_loaded(tmp_path, monkeypatch):
    torch.save({"state_dict": Hold()}, tmp_path / "weights.pth")
    stand_in(monkeypatch, "dac.utils", DAC=Hold, download=lambda *model: tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="nothing in it was executed"):
        make("dac")


def test_encodec_runs_at_its_rate_and_loads_plain_tensors_only(music, tmp_path, monkeypatch):
    path = tmp_path / "weights.th"
    torch.save({"gain": torch.tensor([0.5])}, path)

    class EncodecModel(Hold):
        @classmethod
        def encodec_model_48khz(cls):
            model = cls()
            model.load_state_dict(torch.load(path, weights_only=False))
            return model

        def set_target_bandwidth(self, kbps):
            assert kbps == 24

        def encode(self, audio):
            assert audio.shape[:2] == (1, 2) and audio.shape[2] == rate_of(music.shape[1])
            return [self.gain * audio]

        def decode(self, frames):
            return torch.nn.functional.pad(frames[0], (0, 100))

    def rate_of(samples):
        return round(samples * 48_000 / SAMPLE_RATE)

    stand_in(monkeypatch, "encodec", EncodecModel=EncodecModel)
    system = make("encodec:24")
    made = system.round_trip(music)
    assert made.shape == music.shape and si_sdr(made, music / 2) > 40
    with pytest.raises(UnusableSystem, match="3, 6, 12, 24 kb/s"):
        make("encodec:96")
    torch.save(Hold(), path)
    with pytest.raises(UnusableSystem, match="encodec:24: its weights cannot be had"):
        make("encodec:24")


@pytest.mark.parametrize(
    "spec,package", [("dac", "descript-audio-codec"), ("encodec:6", "encodec")]
)
def test_without_their_packages_there_is_one_clear_line(spec, package, monkeypatch):
    monkeypatch.setitem(sys.modules, spec.partition(":")[0], None)
    with pytest.raises(UnusableSystem, match=f"needs the package .*: pip install {package}"):
        make(spec)


# ------------------------------------------------------------------ names


def test_specs_name_their_rows(tmp_path):
    assert make("identity").name == "identity"
    assert make("plain=mono").name == "plain"
    assert make("linear:32").name == "linear-32"
    (tmp_path / "my run").mkdir()
    assert make(f"folder:{tmp_path / 'my run'}").name == "my-run"
    compact().save_pretrained(tmp_path / "best=1")
    assert make(f"earvae:{tmp_path / 'best=1'}").name == "earvae-best-1"
    assert make(f"ours=earvae:{tmp_path / 'best=1'}").name == "ours"


@pytest.mark.parametrize(
    "spec,message",
    [
        ("mpeg:3", "unknown; use one of earvae, folder"),
        ("", "unknown"),
        ("opus", "write opus:KBPS"),
        ("identity:1", "write identity"),
        ("opus:loud", "whole number"),
        ("a b=identity", "unknown"),
    ],
)
def test_specs_that_make_no_sense_are_refused(spec, message):
    with pytest.raises(SpecError, match=message):
        make(spec)


def test_two_rows_of_one_name_are_refused_with_advice():
    with pytest.raises(SpecError, match="--codec NAME=identity"):
        make_all(["identity", "identity"])
    with pytest.raises(SpecError, match="name reference is taken"):
        make_all(["reference=identity"])


def test_codecs_that_cannot_be_set_up_are_lines(tmp_path):
    specs = [f"folder:{tmp_path}/none", f"earvae:{tmp_path}/none.pyt", "linear:65", "flip"]
    systems, failures = make_all(specs)
    assert [system.name for system in systems] == ["flip"]
    assert len(failures) == 3
    assert "no such folder" in failures[0] and "none.pyt" in failures[1]
    assert "1 to 64 components" in failures[2]
