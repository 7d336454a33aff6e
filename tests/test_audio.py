"""Files in, files out: exact lengths, exact samples, and one line for whatever is wrong."""

from __future__ import annotations

import os
import resource

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earvae import audio
from earvae.audio import AudioFileError, AudioSource, OutputFormatError
from earvae.errors import EarvaeError, WriteError


def noise(channels: int, samples: int, peak: float = 0.5) -> np.ndarray:
    drawn = np.random.default_rng(samples).uniform(-peak, peak, (channels, samples))
    return drawn.astype(np.float32)


def tone(samples: int, rate: int, frequency: float = 1000.0) -> np.ndarray:
    t = np.arange(samples) / rate
    both = [np.sin(2 * np.pi * frequency * t), np.cos(2 * np.pi * frequency * t)]
    return (0.5 * np.array(both)).astype(np.float32)


def save(path, values: np.ndarray, rate: int = 44_100, **how):
    soundfile.write(path, values.T, rate, **how)
    return path


def joined(blocks) -> np.ndarray:
    return np.concatenate(list(blocks), axis=1)


# ------------------------------------------------------------------------------ reading


@pytest.mark.parametrize("block", [1_000, 65_536])
@pytest.mark.parametrize(
    "how",
    [
        {"format": "WAV", "subtype": "FLOAT"},
        {"format": "FLAC", "subtype": "PCM_24"},
        {"format": "OGG", "subtype": "VORBIS"},
        {"format": "MP3", "subtype": "MPEG_LAYER_III"},
        {"format": "OGG", "subtype": "OPUS"},
    ],
    ids=lambda how: how["subtype"],
)
def test_blocks_are_the_file(tmp_path, how, block):
    path = save(tmp_path / "file", tone(70_001, 48_000), 48_000, **how)
    whole, _ = soundfile.read(path, dtype="float32", always_2d=True)
    source = AudioSource(path)
    assert np.array_equal(joined(source.blocks(block)), whole.T)
    assert source.samples == len(whole) == 70_001


def test_a_six_channel_file_is_refused_with_the_option_named(tmp_path):
    path = save(tmp_path / "surround.wav", noise(6, 100))
    with pytest.raises(AudioFileError, match=r"surround.wav.*6 channels.*--downmix"):
        AudioSource(path)


def test_downmix_follows_bs775(tmp_path):
    """L + C/√2 + Ls/√2, with channels in WAVE order and no low-frequency channel."""
    values = noise(6, 500, 0.2)
    path = save(tmp_path / "surround.wav", values, subtype="FLOAT")
    left, right, centre, _, left_surround, right_surround = values
    expected = np.stack(
        [
            left + (centre + left_surround) / np.sqrt(2),
            right + (centre + right_surround) / np.sqrt(2),
        ]
    )
    found = joined(AudioSource(path, downmix=True).blocks())
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("channels", range(3, 9))
def test_ogg_channel_order_is_a_permutation_of_the_wave_order(channels):
    wave = audio.downmix_matrix(channels)
    ogg = audio.downmix_matrix(channels, vorbis_order=True)
    assert sorted(map(tuple, wave.T)) == sorted(map(tuple, ogg.T))
    assert wave.sum(axis=1)[0] == pytest.approx(wave.sum(axis=1)[1])


def test_nine_channels_have_no_downmix(tmp_path):
    path = save(tmp_path / "nine.wav", noise(9, 100))
    with pytest.raises(AudioFileError, match="nine.wav.*9 channels"):
        AudioSource(path, downmix=True)


def test_missing_folder_empty_and_text_files_are_named(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("not audio " * 50)
    save(tmp_path / "no_samples.wav", noise(2, 0))
    for name, complaint in [
        ("gone.wav", "no such file"),
        ("empty.wav", "empty"),
        ("text.wav", "not an audio file"),
        (".", "folder"),
    ]:
        with pytest.raises(AudioFileError, match=complaint) as caught:
            AudioSource(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(AudioFileError, match="no_samples.wav: holds no audio"):
        joined(AudioSource(tmp_path / "no_samples.wav").blocks())


def test_containers_that_nobody_can_check_are_named(tmp_path):
    path = save(tmp_path / "old.wav", noise(2, 1_000), format="NIST")
    with pytest.raises(AudioFileError, match="old.wav: is NIST.*convert it to WAV"):
        AudioSource(path)


def test_a_cut_flac_is_an_error_not_a_shorter_file(tmp_path):
    path = save(tmp_path / "cut.flac", noise(2, 100_000))
    data = path.read_bytes()
    for share in (0.3, 0.7, 0.99):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(AudioFileError, match="cut.flac.*cut off"):
            joined(AudioSource(path).blocks())


@pytest.mark.parametrize("announced", [0, 0x7FFF_F000, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_a_wav_header_size_that_announces_nothing_is_forgiven(tmp_path, announced):
    """What programs leave that write to a pipe."""
    values = noise(2, 1_000)
    path = save(tmp_path / "piped.wav", values, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    place = data.index(b"data") + 4
    data[place : place + 4] = announced.to_bytes(4, "little")
    path.write_bytes(data)
    if announced:  # libsndfile takes a size of 0 at its word
        assert joined(AudioSource(path).blocks()).shape == (2, 1_000)
    else:
        AudioSource(path)


@pytest.mark.parametrize("how", [{"format": "WAV"}, {"format": "WAVEX"}, {"format": "RF64"}])
def test_a_cut_wav_is_an_error_not_a_shorter_file(tmp_path, how):
    path = save(tmp_path / "cut.wav", noise(2, 10_000), **how)
    AudioSource(path)
    path.write_bytes(path.read_bytes()[:-1_000])
    with pytest.raises(AudioFileError, match="cut.wav: cut off: 1000 bytes"):
        AudioSource(path)


def test_a_flac_that_ends_cleanly_before_its_announced_length_is_an_error(tmp_path):
    path = save(tmp_path / "short.flac", noise(2, 10_000))
    data = bytearray(path.read_bytes())
    data[22:26] = (20_000).to_bytes(4, "big")  # the last 32 bits of STREAMINFO's total samples
    path.write_bytes(data)
    with pytest.raises(AudioFileError, match="10000 of 20000 samples"):
        joined(AudioSource(path).blocks())


@pytest.mark.parametrize("form", ["FLAC", "MP3", "OGG"])
def test_files_one_after_the_other_are_read_as_each_alone(tmp_path, form):
    parts = [save(tmp_path / f"{n}", noise(2, 20_000 + n), format=form) for n in (1, 2)]
    chained = tmp_path / "chained"
    chained.write_bytes(b"".join(path.read_bytes() for path in parts))
    alone = [joined(AudioSource(path).blocks()) for path in parts]
    source = AudioSource(chained)
    assert source.info.header_samples == 40_003
    assert np.array_equal(joined(source.blocks()), np.concatenate(alone, axis=1))
    layout = audio.layout_of(chained)
    across, rate = audio.read_stretch(chained, layout.parts, 19_900, 20_100)
    assert rate == 44_100
    np.testing.assert_allclose(across.T, np.concatenate(alone, axis=1)[:, 19_900:20_100], atol=1e-6)


def test_files_of_two_rates_one_after_the_other_are_refused(tmp_path):
    parts = [
        save(tmp_path / f"{rate}", noise(2, 9_000), rate, format="MP3") for rate in (44_100, 48_000)
    ]
    (tmp_path / "chained.mp3").write_bytes(b"".join(path.read_bytes() for path in parts))
    with pytest.raises(AudioFileError, match="chained.mp3: is 2 streams of different rates"):
        AudioSource(tmp_path / "chained.mp3")


def test_an_mp3_of_varying_bit_rate_without_its_first_frame_is_read_whole(tmp_path):
    """libsndfile guesses the length from the first frame's bit rate: silence, so far too much, or
    the reverse."""
    values = noise(2, 200_000)
    values[:, 100_000:] = 0
    path = save(tmp_path / "a.mp3", values, format="MP3", bitrate_mode="VARIABLE")
    data = path.read_bytes()
    second = data.index(data[:2], 100)
    path.write_bytes(data[second:])
    assert 0 <= joined(AudioSource(path).blocks()).shape[1] - 200_000 < 3 * 1152


def test_bytes_in_the_middle_of_an_mp3_that_are_no_frames_are_damage(tmp_path):
    data = save(tmp_path / "a.mp3", noise(2, 100_000), format="MP3").read_bytes()
    (tmp_path / "a.mp3").write_bytes(data[:20_000] + bytes(range(40, 140)) * 30 + data[20_000:])
    with pytest.raises(AudioFileError, match="a.mp3: damaged: bytes .* are no frames"):
        AudioSource(tmp_path / "a.mp3")


@pytest.mark.parametrize("cut", ["byte", "page"])
def test_pages_of_ogg_that_are_damaged_or_missing_are_named(tmp_path, cut):
    data = bytearray(save(tmp_path / "a.ogg", noise(2, 200_000)).read_bytes())
    pages = [place for place in range(len(data)) if data[place : place + 4] == b"OggS"]
    if cut == "byte":
        data[len(data) // 2] ^= 1
    else:
        del data[pages[5] : pages[6]]
    (tmp_path / "a.ogg").write_bytes(data)
    with pytest.raises(AudioFileError, match="a.ogg: damaged: .*page"):
        AudioSource(tmp_path / "a.ogg")


def test_a_wav_whose_32_bits_have_wrapped_around_is_read_to_its_end(tmp_path):
    """As ffmpeg, sox and libsndfile leave one of more than 4 GiB; here it is a sparse file."""
    data = save(tmp_path / "a.wav", noise(2, 50_000), subtype="PCM_16").read_bytes()
    with (tmp_path / "a.wav").open("r+b") as file:
        file.truncate(len(data) + 2**32)
    info = audio.inspect(tmp_path / "a.wav")
    assert info.header_samples == 50_000 + 2**32 // 4
    found, _ = audio.read_stretch(
        tmp_path / "a.wav", audio.layout_of(tmp_path / "a.wav").parts, 2**30, 2**30 + 9
    )
    assert len(found) == 9 and not found.any()


def test_a_file_followed_by_garbage_without_end_is_looked_through_once(tmp_path):
    data = save(tmp_path / "a.mp3", noise(2, 50_000), format="MP3").read_bytes()
    garbage = np.random.default_rng(0).integers(0, 256, 3_000_000, dtype=np.uint8).tobytes()
    (tmp_path / "a.mp3").write_bytes(data + garbage)
    assert joined(AudioSource(tmp_path / "a.mp3").blocks()).shape[1] == 50_000


def test_a_rate_that_no_music_has_is_a_damaged_header(tmp_path):
    path = save(tmp_path / "slow.wav", noise(2, 100), 1)
    with pytest.raises(AudioFileError, match="slow.wav.* 1 Hz"):
        AudioSource(path)


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(AudioFileError, match="pipe.*save it to a regular file"):
        AudioSource(tmp_path / "pipe")


def test_a_file_that_changes_between_two_readings_is_noticed(tmp_path):
    path = save(tmp_path / "a.wav", noise(2, 1_000))
    source = AudioSource(path)
    joined(source.blocks())
    save(path, noise(2, 900))
    with pytest.raises(AudioFileError, match="a.wav: changed while it was read"):
        joined(source.blocks())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_samples_are_located(tmp_path, bad):
    values = noise(2, 100_000)
    values[1, 88_200] = bad
    path = save(tmp_path / "bad.wav", values, subtype="FLOAT")
    with pytest.raises(AudioFileError, match=r"bad.wav.*NaN or infinity.*2\.000 s"):
        joined(AudioSource(path).blocks())


def test_denormal_numbers_are_silence(tmp_path):
    """They take a network, or a filter, twenty times as long as others."""
    values = noise(2, 1_000)
    values[:, 500:] *= np.float32(1e-40)
    path = save(tmp_path / "tail.wav", values, subtype="FLOAT")
    found = joined(AudioSource(path).blocks())
    assert np.array_equal(found[:, :500], values[:, :500]) and not found[:, 500:].any()


def test_read_audio_is_stereo_at_the_wanted_rate(tmp_path):
    path = save(tmp_path / "mono.wav", noise(1, 1_000), 22_050, subtype="FLOAT")
    found = audio.read_audio(path, 44_100)
    assert found.shape == (2, 2_000) and torch.equal(found[0], found[1])


# ------------------------------------------------------------------------------ rate


@settings(max_examples=40)
@given(
    samples=st.integers(1, 20_000),
    source=st.sampled_from([8_000, 22_050, 44_100, 48_000, 96_000, 192_000]),
    target=st.sampled_from([8_000, 22_050, 44_100, 48_000, 192_000]),
    block=st.integers(1, 5_000),
)
def test_resampling_there_and_back_keeps_every_length(samples, source, target, block):
    values = noise(2, samples)
    blocks = [values[:, i : i + block] for i in range(0, samples, block)]
    there = joined(audio.resample(blocks, source, target))
    assert there.shape[1] == -(-samples * target // source)
    assert joined(audio.resample([there], target, source, samples)).shape == values.shape


@pytest.mark.parametrize("rate", [22_050, 48_000, 96_000])
def test_resampling_adds_no_delay(rate):
    """A tone keeps its phase: the resampled tone is the tone sampled at the other rate."""
    found = joined(audio.resample([tone(rate, rate)], rate, 44_100))
    inner = slice(2_000, -2_000)
    np.testing.assert_allclose(found[:, inner], tone(44_100, 44_100)[:, inner], atol=1e-4)


# ------------------------------------------------------------------------------ writing


def write(path, values: np.ndarray, subtype=None, clip=None, rate=44_100, block=777):
    output = audio.output_format(path.suffix, subtype, clip)
    blocks = (values[:, i : i + block] for i in range(0, values.shape[1], block))
    return audio.write(path, blocks, rate, len(values), values.shape[1], output)


def test_float_wav_is_exact_beyond_full_scale(tmp_path):
    values = noise(2, 10_000, peak=3.0)
    written = write(tmp_path / "new" / "out.wav", values)
    found, rate = soundfile.read(tmp_path / "new" / "out.wav", dtype="float32")
    assert np.array_equal(found.T, values) and rate == 44_100
    assert soundfile.info(tmp_path / "new" / "out.wav").subtype == "FLOAT"
    assert written == audio.Written(peak=np.abs(values).max(), gain=1.0, clamped=0)


@pytest.mark.parametrize("name,subtype", [("o.flac", None), ("o.wav", "pcm_24")])
def test_rescaling_is_one_gain_that_brings_the_peak_to_full_scale(tmp_path, name, subtype):
    values = noise(2, 10_000)
    values[0, 5_000] = -2.0
    written = write(tmp_path / name, values, subtype, "rescale")
    found, _ = soundfile.read(tmp_path / name)
    assert written.peak == 2.0 and written.gain == 0.5
    np.testing.assert_allclose(found.T, values / 2, atol=2**-22)


def test_rescaling_leaves_quiet_files_alone(tmp_path):
    assert write(tmp_path / "o.wav", noise(2, 100, 0.3), "pcm_16", "rescale").gain == 1.0


def test_clamping_cuts_and_counts(tmp_path):
    values = noise(2, 1_000)
    values[:, 10:13] = 1.5
    written = write(tmp_path / "o.flac", values, clip="clamp")
    found, _ = soundfile.read(tmp_path / "o.flac")
    assert written.peak == 1.5 and written.clamped == 6
    np.testing.assert_allclose(found.T, values.clip(-1, 1), atol=2**-22)


def test_integers_are_rescaled_by_default_and_overshoot_with_none_is_refused(tmp_path):
    policies = [audio.output_format(".flac"), audio.output_format(".wav", "pcm_16")]
    assert [form.clip for form in policies] == ["rescale", "rescale"]
    assert audio.output_format(".wav").clip == "none"
    with pytest.raises(AudioFileError, match="o.flac.*1.500.*--clip rescale"):
        write(tmp_path / "o.flac", np.full((2, 10), 1.5, np.float32), clip="none")
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "o.flac", noise(2, 10), clip="none")
    assert [path.name for path in tmp_path.iterdir()] == ["o.flac"]


@pytest.mark.parametrize(
    "suffix,subtype", [(".mp3", None), ("", None), (".wav", "pcm_12"), (".flac", "float")]
)
def test_formats_that_cannot_be_written_are_refused(suffix, subtype):
    with pytest.raises(OutputFormatError):
        audio.output_format(suffix, subtype, "rescale")


def test_wav_becomes_rf64_where_riff_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(audio.writing, "RIFF_LIMIT", 8_000)
    values = noise(2, 1_001)
    write(tmp_path / "o.wav", values)
    found, _ = soundfile.read(tmp_path / "o.wav", dtype="float32")
    assert (tmp_path / "o.wav").read_bytes()[:4] == b"RF64"
    assert np.array_equal(found.T, values)


def test_fewer_samples_than_announced_are_not_passed_off_as_a_file(tmp_path):
    output = audio.output_format(".wav")
    with pytest.raises(AudioFileError, match="only 10 of 20 samples"):
        audio.write(tmp_path / "o.wav", [noise(2, 10)], 44_100, 2, 20, output)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = save(tmp_path / "o.wav", noise(2, 10))
    before = path.read_bytes()

    def failing():
        yield noise(2, 10)
        raise AudioFileError("the source is bad")

    with pytest.raises(AudioFileError, match="the source is bad"):
        audio.write(path, failing(), 44_100, 2, 20, audio.output_format(".wav"))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_model_output_that_is_not_finite_is_not_written(tmp_path):
    with pytest.raises(AudioFileError, match="NaN"):
        write(tmp_path / "o.wav", np.full((2, 10), np.nan, np.float32))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("clip", [None, "rescale"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, clip):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(EarvaeError, match=r"o\.wav"):
            write(tmp_path / "o.wav", noise(2, 50_000), clip=clip)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"file/o\.wav: cannot be written"):
        write(tmp_path / "file" / "o.wav", noise(2, 10))


def test_written_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "plain").touch()
    write(tmp_path / "o.wav", noise(2, 10))
    assert (tmp_path / "o.wav").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("value, what", [(np.nan, "NaN"), (np.inf, "NaN"), (5e9, "beyond")])
def test_what_no_sound_has_is_found_at_its_place(value, what):
    block = np.full((10, 2), 4e9, np.float32)
    assert audio.no_sound_in(block) is None
    block[7, 1] = value
    found, place = audio.no_sound_in(block)
    assert what in found and place == 7
