"""The recipes in the package."""

import pytest

from earvae import recipes
from earvae.config import (
    OF_THE_MODEL,
    ConfigError,
    EarVAE2Config,
    ObjectiveConfig,
    TrainConfig,
    read,
)
from earvae.model.pretrained import load
from tests.small import GOLDEN


def test_a_name_that_no_recipe_has_lists_those_there_are():
    with pytest.raises(ConfigError, match="no recipe 'compat'; did you mean compact") as caught:
        recipes.path_of("compat")
    assert all(name in str(caught.value) for name in recipes.names())


def test_the_recipes_that_the_documents_promise_are_there():
    promised = {
        "compact",
        "earvae2",
        "finetune",
        "finetune_published",
        "paper_44k",
        "paper_48k",
        "smoke",
        "smoke_earvae2",
    }
    assert promised <= set(recipes.names())


def test_the_48_khz_recipe_has_the_layout_of_the_published_48_khz_weights():
    published, _ = load(GOLDEN / "tiny48k_v2_state_dict.safetensors")
    ours = read(TrainConfig, recipes.path_of("paper_48k")).model
    assert ours.model_copy(update={"channels": published.channels}) == published


@pytest.mark.parametrize(("name", "frames"), [("paper_44k", 64), ("paper_48k", 75)])
def test_a_crop_of_the_papers_recipes_is_a_second_and_a_half_of_whole_frames(name, frames):
    config = read(TrainConfig, recipes.path_of(name))
    for stage in config.stages:
        assert stage.data.crop_samples == frames * config.model.hop_length
        assert stage.data.crop_samples / config.model.sample_rate == pytest.approx(1.5, abs=0.02)


@pytest.mark.parametrize("name", ["paper_44k", "paper_48k", "finetune_published", "earvae2"])
def test_the_papers_recipes_have_the_released_terms_and_no_others(name):
    released = ObjectiveConfig.released()
    for stage in read(TrainConfig, recipes.path_of(name)).stages:
        ours = stage.balanced_objective()
        for field in ("weighting", "magnitude_channels", *(f for f in ObjectiveConfig.model_fields
                                                           if f.startswith("phase_"))):  # fmt: skip
            assert getattr(ours, field) == getattr(released, field), field
        assert {n for n, w in ours.weights if w} == {n for n, w in released.weights if w}


@pytest.mark.parametrize(
    "name", ["paper_44k", "paper_48k", "finetune_published", "earvae2", "smoke_earvae2", "compact"]
)
def test_no_term_is_dead_and_none_drowns_the_rest(name):
    """Each that is on has 5 to 50 % of the gradient's norm, in every stage."""
    for stage in read(TrainConfig, recipes.path_of(name)).stages:
        on = stage.term_weights().keys() - set(OF_THE_MODEL)
        shares = {term: stage.balance.shares[term] for term in on}
        for term, share in shares.items():
            assert 0.05 <= share / sum(shares.values()) <= 0.5, term


@pytest.mark.parametrize("name", ["earvae2", "smoke_earvae2"])
def test_the_successor_is_trained_without_its_refiner_and_then_by_it_alone(name):
    config = read(TrainConfig, recipes.path_of(name))
    assert config.model.architecture == "earvae2" and config.model.refiner
    assert [(s.name, s.only, s.freeze, s.adversarial is not None) for s in config.stages] == [
        ("generator", (), ("decoder.refiner",), False),
        ("adversarial", (), ("decoder.refiner",), True),
        ("refiner", ("decoder.refiner",), (), True),
    ]


def test_the_successors_recipe_has_its_published_sizes():
    assert read(TrainConfig, recipes.path_of("earvae2")).model == EarVAE2Config()


def test_a_crop_of_the_fine_tuning_recipes_is_whole_frames_of_any_weights():
    for name in ("finetune", "finetune_published"):
        for stage in read(TrainConfig, recipes.path_of(name)).stages:
            assert not any(stage.data.crop_samples % hop for hop in (960, 1024, 1920))
