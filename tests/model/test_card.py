"""The head of a model card, and that of the shipped model."""

import pytest

from earvae import EarVAE
from earvae.model.card import essentials
from earvae.model.pretrained import SHIPPED


def test_plain_values_are_read_and_others_left_out(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\nhours: 3.5\ntags: [a, b]\n---\n# A\n")
    assert essentials(tmp_path) == {"license": "mit", "hours": 3.5}


@pytest.mark.parametrize(
    "text",
    [
        "# A card\n\n---\nlicense: mit\n---\n",
        "---\na: [\n---\n",
        "---\nlicense: mit\n",
        "",
        "---\n- a\n---\n",
    ],
)
def test_a_card_without_a_usable_head_says_nothing(tmp_path, text):
    (tmp_path / "MODEL_CARD.md").write_text(text)
    assert essentials(tmp_path) == {}
    assert essentials(tmp_path / "gone") == {}


def test_the_shipped_card_is_of_the_shipped_model():
    card = essentials(SHIPPED)
    assert card["identity"] == EarVAE.from_pretrained().identity
    assert card["license"] == "cc-by-4.0"
    assert card["audio_hours_seen"] > 1 and card["training_data"] and card["training_steps"]
