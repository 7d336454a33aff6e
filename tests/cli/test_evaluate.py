"""``earvae evaluate`` and ``earvae thdn``: what a person sees."""

from __future__ import annotations

import csv
import json
import shutil
import sys

import pytest
import soundfile

from earvae.evaluation import tables


@pytest.fixture(autouse=True)
def _no_page(monkeypatch):
    """The listening page has tests of its own, and takes its time."""
    asked = []
    monkeypatch.setattr("earvae.cli.evaluate._page", lambda *options: asked.append(options))
    return asked


def error_lines(result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


def test_a_folder_is_measured_and_the_table_shown(tmp_path, earvae, music):
    for name in ("ref/one.wav", "ref/sub/two.wav"):
        music(tmp_path / name, samples=60_000)
    out = tmp_path / "out"
    result = earvae(
        "evaluate", tmp_path / "ref", "--codec", "identity", "--codec", "m=mono", "-o", out
    )
    assert result.exit_code == 0 and result.stderr == ""
    assert "identity" in result.stdout and "SI-SDR dB ↑" in result.stdout
    assert f"written: {out / 'results.md'}" in result.stdout
    results = json.loads((out / "results.json").read_text())
    assert [codec["name"] for codec in results["codecs"]] == ["identity", "m"]
    assert [track["slug"] for track in results["tracks"]] == ["one", "sub_two"]
    assert {p.name for p in out.iterdir()} == {
        *("audio", "cache", "results.json", "results.csv", "results.md"),
        *("evaluation_results.json", ".earvae-evaluation"),
    }
    again = earvae(
        "evaluate", tmp_path / "ref", "--codec", "identity", "--codec", "m=mono", "-o", out
    )
    assert again.stdout == result.stdout


def test_the_page_gets_its_title_notes_and_kind_of_sound(tmp_path, earvae, music, _no_page):
    source, out = music(tmp_path / "a.wav"), tmp_path / "out"
    options = ("--title", "Mine", "--notes", "For you.", "--audio", "opus")
    assert earvae("evaluate", source, "--codec", "flip", "-o", out, *options).exit_code == 0
    assert _no_page == [(out, "Mine", "For you.", "opus")]
    assert earvae("evaluate", source, "--codec", "flip", "-o", out).exit_code == 0
    assert _no_page[1] == (out, None, "", "flac")


def test_results_inside_the_music_folder_are_not_measured_the_next_time(tmp_path, earvae, music):
    music(tmp_path / "a.wav")
    for _ in range(2):
        earvae("evaluate", tmp_path, "--codec", "flip", "-o", tmp_path / "out")
        results = json.loads((tmp_path / "out" / "results.json").read_text())
        assert [track["name"] for track in results["tracks"]] == ["a.wav"]


def test_seconds_start_and_manifest_split(tmp_path, earvae, music):
    for name in ("a", "b"):
        music(tmp_path / f"{name}.wav", samples=3 * 44_100)
    lines = [{"file": "a.wav", "split": "train"}, {"file": "b.wav", "split": "test"}]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    arguments = ("--codec", "identity", "-o", tmp_path / "out", "--split", "test")
    options = ("--seconds", "1.5", "--start", "0.5")
    result = earvae("evaluate", tmp_path / "m.jsonl", *arguments, *options)
    assert result.exit_code == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    (track,) = results["tracks"]
    assert (track["name"], track["start"], track["seconds"]) == ("b.wav", 0.5, 1.5)
    earvae("evaluate", tmp_path / "m.jsonl", *arguments, "--seconds", "0")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["tracks"][0]["seconds"] == 3 and results["settings"]["seconds"] is None


def test_some_tracks_are_taken_and_turned_up(tmp_path, earvae, music):
    for name in "abc":
        music(tmp_path / "ref" / f"{name}.wav", samples=60_000)
    out = tmp_path / "out"
    options = ("--codec", "identity", "--most", "2", "--loud", "-o", out)
    assert earvae("evaluate", tmp_path / "ref", *options).exit_code == 0
    results = json.loads((out / "results.json").read_text())
    assert [track["name"] for track in results["tracks"]] == ["a.wav", "c.wav"]
    assert results["settings"]["loud"] is True
    assert results["tracks"][0]["loudness"]["lufs"] == pytest.approx(-9, abs=0.3)
    assert "−9 LUFS" in (out / "results.md").read_text()


def test_a_folder_of_originals_and_reconstructions_prints_every_systems_row(
    tmp_path, earvae, music
):
    for place in ("one/original.wav", "one/Their model.wav", "two/original.wav", "two/other.wav",
                  "two/Their model.wav", "three/alone.wav"):  # fmt: skip
        music(tmp_path / "in" / place, samples=60_000)
    out = tmp_path / "out"
    result = earvae("evaluate", f"folder:{tmp_path / 'in'}", "--codec", "flip", "-o", out)
    assert result.exit_code == 0 and result.stderr == ""
    results = json.loads((out / "results.json").read_text())
    assert [track["name"] for track in results["tracks"]] == [
        "one/original.wav",
        "two/original.wav",
    ]
    names = [codec["name"] for codec in results["codecs"]]
    assert names == ["Their-model", "other", "flip"]
    one, two = result.stdout.split("(one/original.wav)")[1].split("(two/original.wav)")
    assert "other" not in one and all(name in two for name in names)  # rows that compare
    text = (out / "results.md").read_text()
    assert "1 tracks (one/original.wav)" in text and "1 tracks (two/original.wav)" in text
    assert "Failed" not in text

    nothing = earvae("evaluate", f"folder:{tmp_path / 'in' / 'three'}", "-o", out)
    assert nothing.exit_code == 1
    assert "no folder there has an original.* and reconstructions" in error_lines(nothing)[0]


def test_the_terminal_shows_what_the_distances_do_not_hear(tmp_path, earvae, music):
    music(tmp_path / "a.wav", samples=60_000)
    result = earvae("evaluate", tmp_path, "--codec", "flip", "-o", tmp_path / "out")
    assert all(name in result.stdout for name in ("0.2–1 kHz", "Repetition", "Evenness dB"))


def test_judges_that_are_not_installed_are_told_before_anything_is_done(
    tmp_path, earvae, music, monkeypatch
):
    monkeypatch.setitem(sys.modules, "zimtohrli", None)
    options = ("--codec", "flip", "--judges", "-o", tmp_path / "out")
    result = earvae("evaluate", music(tmp_path / "a.wav"), *options)
    assert result.exit_code == 1 and "pip install 'earvae[judges]'" in error_lines(result)[0]
    assert not (tmp_path / "out").exists()


def test_what_is_left_out_is_said_and_no_failure(tmp_path, earvae, music):
    music(tmp_path / "ref" / "a.wav")
    (tmp_path / "ref" / ".b.wav").touch()
    result = earvae("evaluate", tmp_path / "ref", "--codec", "flip", "-o", tmp_path / "out")
    assert result.exit_code == 0 and "left out, hidden: 1" in result.stderr


def test_what_fails_is_listed_at_the_end_with_status_1(tmp_path, earvae, music):
    music(tmp_path / "ref" / "good.wav")
    (tmp_path / "ref" / "bad.wav").write_text("text")
    specs = ("--codec", "identity", "--codec", f"folder:{tmp_path / 'none'}")
    result = earvae("evaluate", tmp_path / "ref", *specs, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "1 done, 2 failed:" in result.stderr
    assert "no such folder" in error_lines(result)[0] and "bad.wav" in error_lines(result)[1]
    assert (tmp_path / "out" / "results.json").exists()


def test_published_pairs_are_measured_where_they_lie(tmp_path, earvae, music):
    music(tmp_path / "song.wav", subtype="FLOAT")
    shutil.copy(tmp_path / "song.wav", tmp_path / "song_vae_rec.wav")
    result = earvae("evaluate", tmp_path, "--codec", f"x=folder:{tmp_path}", "-o", tmp_path / "out")
    assert result.exit_code == 0
    published = json.loads((tmp_path / "out" / "evaluation_results.json").read_text())["x"]
    assert published["file_count"] == 1 and published["avg_sisdr"] > 90


@pytest.mark.parametrize(
    "options,status,message",
    [
        (("--codec", "mpeg"), 2, "--codec mpeg: unknown"),
        (("--codec", "flip", "--codec", "flip"), 2, "the name flip is taken"),
        (("--codec", "flip", "--start", "late"), 2, "--start late: give middle"),
        (("--codec", "flip", "--split", "test"), 1, "has the splits train and validation"),
        (("--codec", "linear:99"), 1, "1 to 64 components"),
        (("--codec", "flip", "--device", "quantum"), 1, "--device quantum"),
    ],
)
def test_commands_that_cannot_be_meant_are_one_line(
    tmp_path, earvae, music, options, status, message
):
    music(tmp_path / "ref" / "a.wav")
    result = earvae("evaluate", tmp_path / "ref", *options, "-o", tmp_path / "out")
    assert result.exit_code == status
    assert len(error_lines(result)) == 1 and message in error_lines(result)[0]


def test_missing_music_and_unwritable_results_are_one_line(tmp_path, earvae, music):
    result = earvae("evaluate", tmp_path / "none", "--codec", "flip", "-o", tmp_path / "out")
    assert result.exit_code == 1 and "no such file, folder or manifest" in result.stderr
    music(tmp_path / "ref" / "a.wav")
    (tmp_path / "file").touch()
    result = earvae("evaluate", tmp_path / "ref", "--codec", "flip", "-o", tmp_path / "file")
    assert result.exit_code == 1 and len(error_lines(result)) == 1


def test_help_lists_every_codec(earvae):
    from earvae.evaluation.systems.registry import _MAKERS

    text = earvae("evaluate", "--help").stdout
    assert all(kind in text for kind in _MAKERS)
    assert tables.PUBLISHED_METRICS  # named in the help as what evaluation_results.json holds


def test_thdn_writes_a_csv_and_a_plot_per_codec(tmp_path, earvae):
    options = ("--level", "-6", "--level", "-20", "--frequency", "997")
    out = tmp_path / "out"
    result = earvae(
        "thdn", "--codec", "identity", "--codec", f"folder:{tmp_path}", *options, "-o", out
    )
    assert result.exit_code == 1  # for the folder
    assert "no other sound can go through it" in error_lines(result)[0]
    assert "997 Hz" in result.stdout
    assert {path.name for path in out.iterdir()} == {
        *("thdn.csv", "thdn_identity.png", ".earvae-thdn"),
    }
    with (out / "thdn.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["level_dbfs"] for row in rows] == ["-6.0", "-20.0"]
    assert all(float(row["thdn_db"]) < -120 for row in rows)


def test_thdn_refuses_tones_it_cannot_measure(tmp_path, earvae):
    result = earvae("thdn", "--codec", "identity", "--frequency", "5", "-o", tmp_path)
    assert result.exit_code == 2 and "whole hertz" in result.stderr


def test_audio_of_the_reference_is_the_reference(tmp_path, earvae, music):
    source = music(tmp_path / "a.wav", subtype="FLOAT")
    earvae("evaluate", source, "--codec", "identity", "-o", tmp_path / "out")
    kept, _ = soundfile.read(tmp_path / "out" / "audio" / "a" / "reference.wav")
    original, _ = soundfile.read(source)
    assert (kept == original).all()


def test_results_beside_the_music_are_not_measured_the_next_time(tmp_path, earvae, music):
    music(tmp_path / "a.wav")
    for codec in ("flip", "mono"):
        result = earvae("evaluate", tmp_path, "--codec", codec, "-o", tmp_path)
        assert result.exit_code == 0, result.output
        results = json.loads((tmp_path / "results.json").read_text())
        assert [track["name"] for track in results["tracks"]] == ["a.wav"]
    earvae("evaluate", tmp_path, "--codec", "flip", "-o", tmp_path / "other")
    results = json.loads((tmp_path / "other" / "results.json").read_text())
    assert [track["name"] for track in results["tracks"]] == ["a.wav"]


@pytest.mark.parametrize("name", ["report/thesis.txt", "audio/b.wav", "results.csv"])
def test_what_is_not_of_an_evaluation_is_refused_before_anything_is_done(
    tmp_path, earvae, music, name
):
    music(tmp_path / "in" / "a.wav")
    theirs = tmp_path / "out" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("years of work")
    result = earvae("evaluate", tmp_path / "in", "--codec", "flip", "-o", tmp_path / "out")
    assert result.exit_code == 1 and len(error_lines(result)) == 1
    assert str(tmp_path / "out" / name.split("/")[0]) in error_lines(result)[0]
    found = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert found == [theirs] and theirs.read_text() == "years of work"
