"""The engines give what the definition gives, within what each promises."""

import pytest
import torch

from earvae import engine as engines
from earvae.engine import accelerate, passes, workers
from tests.small import golden


def decibels(ours, theirs) -> float:
    """Signal over error."""
    return float(10 * ((theirs**2).sum() / ((ours - theirs) ** 2).sum()).log10())


@pytest.fixture(
    params=["tiny44k", "tiny44k_no_transformer", "tiny48k", "tiny_earvae2", "tiny_earvae2_base"]
)
def vae(request):
    return golden(request.param)


@pytest.mark.parametrize("frames", [1, 2, 9, 40])
@torch.no_grad()
def test_the_exact_engine_equals_the_definition_to_1e_5_of_the_peak(vae, frames):
    random = torch.Generator().manual_seed(frames)
    audio = 0.1 * torch.randn((2, 2, vae.hop_length * frames), generator=random)
    engine = accelerate(vae, "exact")
    for ours, theirs in (
        (engine.encode(audio).parameters, vae.encode(audio).parameters),
        (engine.decode(vae.encode(audio).mode()), vae.decode(vae.encode(audio).mode())),
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())


@pytest.fixture
def bfloat16(monkeypatch):
    """A processor that has it; emulated, if need be."""
    monkeypatch.setattr(engines, "has_bfloat16", lambda device: True)


@torch.no_grad()
def test_the_fast_engine_is_within_35_decibels(vae, bfloat16):
    """On noise through random weights; music through wide layers fares better."""
    random = torch.Generator().manual_seed(0)
    audio = 0.1 * torch.randn((1, 2, vae.hop_length * 20), generator=random)
    engine = accelerate(vae, "fast")
    assert (engine.engine, engine.precision) == ("fast", "bf16")
    latents = vae.encode(audio).mode()
    assert decibels(engine.encode(audio).mode(), latents) > 35
    assert decibels(engine.decode(latents), vae.decode(latents)) > 35


def test_the_passes_of_torch_are_those_that_are_compiled(vae, monkeypatch):
    """Either is used where it is, and gives the same but for rounding."""
    pytest.importorskip("numba")
    audio = 0.1 * torch.randn(1, 2, vae.hop_length * 9)
    expected = accelerate(vae, "exact").encode(audio).parameters
    monkeypatch.setattr(passes, "fastest", lambda: passes)
    found = accelerate(vae, "exact").encode(audio).parameters
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    assert not torch.equal(found, expected)  # two ways indeed


@torch.no_grad()
def test_an_engine_keeps_the_identity_of_its_model(vae):
    assert accelerate(vae, "exact").identity == vae.identity


@pytest.mark.parametrize("name", ["plain", "exact", "fast"])
@torch.no_grad()
def test_an_engine_leaves_its_model_as_it_was(vae, bfloat16, name):
    """What an engine folds is its own: a copy of a module can share the original's class."""
    names, latents = list(vae.state_dict()), torch.randn(1, vae.latent_channels, 3)
    before = vae.decode(latents)
    accelerate(vae, name)
    assert list(vae.state_dict()) == names and torch.equal(vae.decode(latents), before)


@torch.no_grad()
def test_silence_stays_finite(vae, bfloat16):
    engine = accelerate(vae, "fast")
    posterior = engine.encode(torch.zeros(1, 2, vae.hop_length * 3))
    assert torch.isfinite(posterior.parameters).all()
    assert torch.isfinite(engine.decode(posterior.mode())).all()


@pytest.fixture
def two_threads():
    """Worker threads; with one there are none."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["plain", "exact", "fast"])
def test_inference_mode_changes_nothing(vae, two_threads, bfloat16, name):
    """Workers do not inherit the mode, and may not write into inference tensors; nor may buffers
    that were made in it be used outside."""
    audio = 0.1 * torch.randn(1, 2, vae.hop_length * 20)
    engine = accelerate(vae, name)
    results = []
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            latents = engine.encode(audio).mode()
            results.append((latents, engine.decode(latents)))
    for latents, decoded in results[1:]:
        assert torch.equal(latents, results[0][0]) and torch.equal(decoded, results[0][1])


def test_workers_compute_alone_whatever_they_computed_before(two_threads):
    """Else the last bits of a result depend on which worker took which stretch."""
    found = []

    def work(start, stop):
        for _ in range(3):
            torch.ones(1 << 20).sin()  # large enough for torch to share out
            found.append(torch.get_num_threads())

    workers.run(work, [(0, 1)] * 6)
    assert found == [1] * 18 and torch.get_num_threads() == 2


def test_passes_compile_where_nothing_can_be_kept() -> None:
    """numba refuses to cache what it can find no writable place for; here, code without a file."""
    compiled = pytest.importorskip("earvae.engine.compiled", exc_type=ImportError)
    scope: dict = {}
    exec("def twice(x):\n    return 2 * x", scope)
    assert compiled._compile(scope["twice"])(21) == 42
