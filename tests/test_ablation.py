"""The ablation: its recipes, and the rule by which claims are judged."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from earvae.config import ConfigError, TrainConfig
from earvae.config_files import load

FOLDER = Path(__file__).parents[1] / "experiments" / "ablation"


def _load(name: str):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # run.py imports claims by this name
    spec.loader.exec_module(module)
    return module


claims = _load("claims")
ablation = _load("run")

BASE, _ = load(FOLDER / "base.yaml")
CLAIM = claims.Claim("x", "base is better", "", ("si_sdr", "mel"), {"one": {}, "two": {}})


def scores(**by_variant: list[dict]) -> dict:
    return {name: dict(enumerate(seeds, 1)) for name, seeds in by_variant.items()}


def seeds(si_sdr: list[float], mel: list[float]) -> list[dict]:
    return [{"si_sdr": a, "mel": b} for a, b in zip(si_sdr, mel, strict=True)]


GOOD = seeds([10.0, 10.1, 10.2], [0.5, 0.51, 0.52])
POOR = seeds([8.0, 8.1, 8.2], [0.8, 0.81, 0.82])


def judged(**by_variant: list[dict]) -> str:
    return claims.verdict(claims.comparisons(CLAIM, scores(**by_variant)))


# ------------------------------------------------------------------------------ the rule


def test_pooled_standard_error_in_closed_form():
    # variances 1 and 4, pooled 2.5; 2.5 (1/3 + 1/3) = 5/3
    error = claims.pooled_standard_error([1.0, 2.0, 3.0], [0.0, 2.0, 4.0])
    assert error == pytest.approx((5 / 3) ** 0.5)


def test_pooled_standard_error_weighs_samples_by_their_degrees_of_freedom():
    # squares about the mean 2 and 8, of 3 degrees of freedom: 10/3 (1/3 + 1/2) = 25/9
    assert claims.pooled_standard_error([1.0, 2.0, 3.0], [0.0, 4.0]) == pytest.approx(5 / 3)


@pytest.mark.parametrize(
    "shift, outcome", [(2.1, "better"), (1.9, "level"), (-1.9, "level"), (-2.1, "worse")]
)
def test_two_standard_errors_make_a_difference(shift, outcome):
    # variance 1.5 on both sides, so that the error is 1
    unit = 1.5**0.5
    theirs = [-unit, 0.0, unit]
    found = scores(
        base=[{"si_sdr": value + shift} for value in theirs],
        one=[{"si_sdr": value} for value in theirs],
    )
    comparison = claims.compare(found, "one", "si_sdr")
    assert comparison.error == pytest.approx(1)
    assert comparison.advantage == pytest.approx(shift)
    assert comparison.outcome == outcome


def test_the_paired_error_sees_what_seeds_have_in_common():
    # differences 1, 2, 3: deviation 1, of three; the samples themselves spread a hundredfold
    ours, theirs = {1: 101.0, 2: 202.0, 3: 303.0}, {3: 300.0, 2: 200.0, 1: 100.0, 4: 0.0}
    assert claims.paired_error(ours, theirs) == pytest.approx(1 / 3**0.5)
    assert claims.paired_error({1: 1.0}, theirs) is None


def test_lower_distances_are_better():
    found = scores(base=GOOD, one=POOR)
    assert claims.compare(found, "one", "mel").advantage == pytest.approx(0.3)
    assert claims.compare(found, "one", "mel").outcome == "better"


def test_better_than_every_alternative_on_every_metric_replicates():
    assert judged(base=GOOD, one=POOR, two=POOR) == "replicated"


def test_level_with_one_alternative_is_undecided():
    assert judged(base=GOOD, one=POOR, two=GOOD) == "undecided"


def test_better_on_one_metric_only_is_undecided():
    mixed = seeds([8.0, 8.1, 8.2], [0.5, 0.51, 0.52])
    assert judged(base=GOOD, one=mixed, two=POOR) == "undecided"


def test_worse_than_one_alternative_on_one_metric_does_not_replicate():
    mixed = seeds([8.0, 8.1, 8.2], [0.3, 0.31, 0.32])
    assert judged(base=GOOD, one=POOR, two=mixed) == "not replicated"


def test_one_seed_decides_nothing():
    single = scores(base=GOOD[:1], one=POOR[:1])
    assert claims.compare(single, "one", "si_sdr").outcome == "unknown"
    assert judged(base=GOOD[:1], one=POOR[:1], two=POOR[:1]) == "undecided"
    assert judged(base=POOR[:1], one=GOOD[:1], two=GOOD[:1]) == "undecided"


def test_an_alternative_without_runs_leaves_a_claim_undecided():
    assert judged(base=GOOD, one=POOR) == "undecided"
    assert judged() == "undecided"


# ------------------------------------------------------------------------------ tables


def test_a_cell_is_mean_and_sample_deviation():
    assert claims.spread([1.0, 2.0, 3.0], "si_sdr") == "2.00 ± 1.00"
    assert claims.spread([0.95, 0.97], "icpc") == "96.00 ± 1.41"  # per cent
    assert claims.spread([-0.5], "lufs_difference") == "-0.50"
    assert claims.spread([], "mel") == "–"


def test_every_metric_of_a_claim_has_a_column():
    for claim in ablation.read_claims(FOLDER / "variants.yml", None):
        assert set(claim.metrics) <= claims.COLUMNS.keys()


# ------------------------------------------------------------------------------ recipes


def all_jobs(out: Path, only: list[str] | None = None, seeds: int = 3) -> list:
    found = ablation.read_claims(FOLDER / "variants.yml", only)
    return ablation.jobs_of(BASE, ablation.variants_of(found), seeds, 7, out)


def test_the_base_is_shared_by_all_claims(tmp_path):
    names = [job.name for job in all_jobs(tmp_path, seeds=1)]
    assert names[0] == "base-1"
    assert len(names) == len(set(names)) == 9


def test_a_part_of_the_claims(tmp_path):
    jobs = all_jobs(tmp_path, ["weighting"], seeds=2)
    assert [job.name for job in jobs] == [
        "base-1", "weighting-none-1", "weighting-a-1",
        "base-2", "weighting-none-2", "weighting-a-2",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="--only waiting"):
        all_jobs(tmp_path, ["waiting"])


def test_a_variant_differs_from_the_base_where_it_says_so_and_nowhere_else(tmp_path):
    recipes = {job.name: TrainConfig(**job.recipe) for job in all_jobs(tmp_path)}
    base = recipes["base-2"]
    assert base.steps == 7
    assert base.seed == base.stages[0].data.seed == 2
    objective = base.stages[0].objective
    assert (objective.weighting, objective.magnitude_channels, objective.phase_channels) == (
        "k", "mslr", "lr",
    )  # fmt: skip
    assert base.initial_weights == "shipped"
    stage = base.stages[0]
    for name, recipe in recipes.items():
        if name.endswith("-2"):
            changes = {"objective": objective, "balance": stage.balance}
            changed = recipe.stages[0].model_copy(update=changes)
            assert recipe.model_copy(update={"stages": (changed,)}) == base, name
    shares = recipes["phase-none-2"].stages[0].balance.shares
    assert {name for name, share in shares.items() if share != stage.balance.shares[name]} == {
        "correlation_intra", "correlation_inter", "instantaneous_frequency", "group_delay",
    }  # fmt: skip


def test_changes_are_merged_at_every_depth_and_leave_the_base_alone():
    base = {
        "objective": {"weights": {"kl": 1, "waveform": 2}},
        "linear_code_crops": 0,
        "stages": [{"name": "a"}],
    }
    before = json.dumps(base)
    changes = {"objective": {"weights": {"kl": 0}}}
    assert ablation.recipe_of(base, changes, seed=4, steps=5) == {
        "linear_code_crops": 0,
        "objective": {"weights": {"kl": 0, "waveform": 2}},
        "seed": 4,
        "data": {"seed": 4},
        "stages": [{"name": "a", "steps": 5}],
    }
    assert json.dumps(base) == before


def test_a_misspelt_change_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ConfigError, match="weights.corelation"):
        changes = {"objective": {"weights": {"corelation": 0}}}
        ablation.jobs_of(BASE, {"phase-none": changes}, 1, 5, tmp_path)


def test_a_folder_of_other_settings_is_refused(tmp_path):
    ablation.keep(tmp_path / "a" / "settings.json", {"devices": 2})
    ablation.keep(tmp_path / "a" / "settings.json", {"devices": 2})
    with pytest.raises(ConfigError, match="use another --output"):
        ablation.keep(tmp_path / "a" / "settings.json", {"devices": 1})


# ------------------------------------------------------------------------------ child processes


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    job = all_jobs(tmp_path, ["weighting"], seeds=1)[0]
    assert job.spent() == (0.0, False)
    spent = json.dumps({"seconds": 3.0, "finished": True})
    ablation.atomic.write(job.folder / "spent.json", spent)
    monkeypatch.setattr(ablation, "in_child", None)  # would raise if it were called
    ablation.train(job, ablation.arguments([]), print)
    assert job.spent() == (3.0, True)


def test_a_signal_reaches_the_child_which_may_finish_its_work(tmp_path):
    program = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
os.kill(os.getppid(), signal.SIGINT)
time.sleep(30)
"""
    handler = ablation.signal.getsignal(ablation.signal.SIGINT)
    words = [sys.executable, "-c", program]
    found = ablation.in_child(words, None, tmp_path / "output.txt", lambda: None)
    assert found == (75, True)
    assert ablation.signal.getsignal(ablation.signal.SIGINT) == handler
