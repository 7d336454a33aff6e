"""README, the model card and docs/RESULTS.md state the same figures of the shipped model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from earvae.evaluation.figures import BY_KEY
from earvae.evaluation.tables import title

ROOT = Path(__file__).parents[1]
RESULTS = (ROOT / "docs/RESULTS.md").read_text("utf-8")
CARD = (ROOT / "src/earvae/model/weights/MODEL_CARD.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
KEYS = ("si_sdr", "mel", "stft", "icpc", "ccpc")


def medians(text: str, heading: str) -> dict[str, dict[str, str]]:
    """By codec and column, the cells of the table of medians below a heading."""
    section = re.split(r"^## ", text, flags=re.MULTILINE)
    (section,) = (part for part in section if part.startswith(heading))
    table = section.split("Median over tracks:", 1)[1].strip().split("\n\n")[0]
    header, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
    ]
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def figures(codec: str, heading: str = "On the test split") -> list[str]:
    row = medians(RESULTS, heading)[codec]
    return [row[title(BY_KEY[key])] for key in KEYS]


@pytest.mark.parametrize("codec", ["earvae", "linear-64"])
@pytest.mark.parametrize("heading", ["On the test split", "On −9 LUFS"])
def test_the_cards_table_is_that_of_the_results(codec, heading):
    card = medians(CARD, "Measured")
    name = f"{codec}, −9 LUFS" if "LUFS" in heading else codec
    assert [card[name][title(BY_KEY[key])] for key in KEYS] == figures(codec, heading)


def test_the_cards_head_is_that_of_the_results():
    si_sdr, mel, stft, icpc, ccpc = figures("earvae")
    assert (
        f"test_split: SI-SDR {si_sdr} dB, Mel {mel}, STFT {stft}, ICPC {icpc} %, CCPC {ccpc} % "
        "(medians, 13 tracks)"
    ) in CARD


def test_the_readmes_figures_are_rounded_ones_of_the_results():
    text = " ".join(README.split())
    found = re.search(
        r"median SI-SDR of ([\d.]+) dB, a Mel distance of ([\d.]+) and an STFT distance of "
        r"([\d.]+); the best linear code of the same size has ([\d.]+), ([\d.]+) and ([\d.]+)\.",
        text,
    )
    expected = figures("earvae")[:3] + figures("linear-64")[:3]
    for shown, exact in zip(found.groups(), expected, strict=True):
        digits = len(shown.partition(".")[2])
        assert float(shown) == pytest.approx(float(exact), abs=0.5 * 10**-digits + 1e-9)


def test_all_name_the_same_weights():
    from earvae import EarVAE

    identity = EarVAE.from_pretrained().identity
    assert all(identity in text for text in (RESULTS, CARD, README))
