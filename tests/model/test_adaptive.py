import math

import pytest
import torch

from earvae.model.adaptive import AdaptiveCode, fit_adaptive_code, grid

FEATURES, CHANNELS = 24, 4
EVERYTHING = torch.ones(FEATURES, dtype=torch.bool)


def planes(count: int, excerpts: int = 48, frames: int = 300) -> list[torch.Tensor]:
    """Excerpts that each lie in one of ``count`` unrelated planes of CHANNELS dimensions, in
    batches of 8, with a trace of noise."""
    generator = torch.Generator().manual_seed(1)
    mixing = torch.linalg.qr(torch.randn(count, FEATURES, CHANNELS, generator=generator))[0]
    plane = mixing[torch.arange(excerpts) % count]  # [excerpts, features, channels]
    inside = torch.randn(excerpts, frames, CHANNELS, generator=generator)
    noise = torch.randn(excerpts, frames, FEATURES, generator=generator)
    return list((inside @ plane.transpose(1, 2) + 1e-3 * noise).split(8))


def fitted(classes: int, batches: list[torch.Tensor], subspace: int = FEATURES) -> AdaptiveCode:
    code = AdaptiveCode(FEATURES, CHANNELS, classes, subspace)
    fit_adaptive_code(code, batches, EVERYTHING)
    return code


def error(code: AdaptiveCode, frames: torch.Tensor) -> float:
    """Energy of what the code leaves, relative."""
    return float(
        (code.decode(*code.encode(frames)) - frames).square().sum() / frames.square().sum()
    )


def left_by_one_basis(frames: torch.Tensor) -> torch.Tensor:
    """What the best CHANNELS directions of all frames leave, ``[frames, features]``."""
    unit = frames / frames.square().mean(dim=(1, 2), keepdim=True).sqrt()
    best = torch.linalg.svd(unit.flatten(0, 1), full_matrices=False)[2][:CHANNELS]
    return (frames - frames @ best.T @ best).flatten(0, 1)


def test_music_of_several_kinds_is_kept_by_as_many_bases():
    batches = planes(6)
    frames = torch.cat(batches)
    assert error(fitted(6, batches), frames) < 1e-3
    left = left_by_one_basis(frames).square().sum() / frames.square().sum()
    assert left > 0.5  # one basis cannot: 24 dimensions, 4 components


def test_one_class_is_the_optimal_linear_code():
    generator = torch.Generator().manual_seed(3)
    falling = torch.linspace(2, 0.1, FEATURES)
    batches = [torch.randn(16, 40, FEATURES, generator=generator) * falling]
    code, left = fitted(1, batches), left_by_one_basis(batches[0])
    share = left.square().sum() / batches[0].square().sum()
    assert error(code, batches[0]) == pytest.approx(float(share), rel=5e-3)
    residual = left.square().mean(dim=0).sqrt()
    torch.testing.assert_close(code.residual_std[0], residual, rtol=5e-2, atol=2e-2)


def test_bases_are_orthonormal_so_that_twice_coded_is_once_coded():
    batches = planes(6)
    code = fitted(4, batches, subspace=20)
    bases = code.basis.unflatten(1, (4, CHANNELS)).permute(1, 0, 2)
    unit = torch.eye(CHANNELS).expand(4, -1, -1)
    torch.testing.assert_close(bases.transpose(1, 2) @ bases, unit, atol=1e-5, rtol=0)
    latents, chosen = code.encode(batches[0])
    again, same = code.encode(code.decode(latents, chosen))
    assert torch.equal(same, chosen)
    torch.testing.assert_close(again, latents, atol=1e-4, rtol=0)


def test_latents_have_unit_variance_in_each_class():
    batches = planes(3)
    latents, chosen = fitted(3, batches).encode(torch.cat(batches))
    for index in range(3):
        own = latents[chosen[..., index] > 0]
        assert float(own.square().mean()) == pytest.approx(1, abs=0.2)


def test_explained_and_residual_are_of_the_class():
    batches = planes(2)
    code = fitted(2, batches)
    frames = torch.cat(batches)
    latents, chosen = code.encode(frames)
    kept = code.decode(latents, chosen)
    for index in range(2):
        own = chosen[..., index] > 0
        share = kept[own].square().sum() / frames[own].square().sum()
        weight = code.residual_std[index].square() / (1 - code.explained[index])
        assert float((code.explained[index] * weight).sum() / weight.sum()) == pytest.approx(
            float(share), abs=0.2
        )


@pytest.mark.parametrize("classes", [1, 2, 5, 16, 64])
@torch.no_grad()
def test_the_two_latents_say_which_class_even_when_disturbed(classes):
    code = AdaptiveCode(FEATURES, CHANNELS, classes, FEATURES)
    chosen = torch.eye(classes)
    side = math.ceil(math.sqrt(classes))
    margin = 1.4 / max(1, side - 1)  # just below half of the way to the next
    for direction in ([margin, margin], [-margin, margin], [0.0, -margin]):
        assert torch.equal(code.nearest(code.points_of(chosen) + torch.tensor(direction)), chosen)
    assert code.points_of(chosen).abs().max() <= 1.5


def test_neighbours_on_the_grid_are_one_step_apart():
    points = grid(9)
    assert len({tuple(point.tolist()) for point in points}) == 9
    apart = torch.cdist(points, points) + 9 * torch.eye(9)
    torch.testing.assert_close(apart.min(dim=1).values, torch.full((9,), 1.5))


def test_the_choice_does_not_depend_on_level():
    code = fitted(4, planes(4))
    frames = planes(4)[0]
    quiet, loud = code.encode(frames * 1e-3), code.encode(frames * 1e3)
    assert torch.equal(quiet[1], loud[1])
    torch.testing.assert_close(loud[0], quiet[0] * 1e6, rtol=1e-4, atol=1e-2)


def test_a_fit_is_repeatable_and_blind_to_the_level_of_an_excerpt():
    batches = planes(4)
    louder = [batch.clone() for batch in batches]
    louder[0][0] *= 100
    one, two, three = (fitted(3, b) for b in (batches, batches, louder))
    assert torch.equal(one.basis, two.basis)
    frames = torch.cat(batches)
    assert error(three, frames) == pytest.approx(error(one, frames), rel=1e-2)


def test_fewer_frames_than_classes_still_make_a_code():
    batches = [batch[:1, :4] for batch in planes(2)[:1]]
    code = fitted(8, batches)
    for value in (code.basis, code.std, code.residual_std, code.explained):
        assert value.isfinite().all()
    assert error(code, batches[0]) < 1e-3


def test_silence_is_refused():
    with pytest.raises(ValueError, match="no audible excerpt"):
        fitted(2, [torch.zeros(2, 5, FEATURES)])


def test_what_is_not_covered_is_left_whole_and_never_touched():
    generator = torch.Generator().manual_seed(5)
    falling = torch.linspace(2, 0.5, FEATURES)
    frames = torch.randn(8, 100, FEATURES, generator=generator) * falling
    covered = torch.arange(FEATURES) < 16
    code = AdaptiveCode(FEATURES, CHANNELS, 3, 20)  # more than the 16 there are
    fit_adaptive_code(code, [frames], covered)
    kept = code.decode(*code.encode(frames))
    assert torch.equal(kept[..., ~covered], torch.zeros(8, 100, 8))
    assert torch.equal(code.explained[:, ~covered], torch.zeros(3, 8))
    power = falling[~covered].square()  # of the noise that went in, at the level of the fit
    measured = code.residual_std[:, ~covered].square()
    ratio = measured / power
    torch.testing.assert_close(ratio / ratio.mean(), torch.ones(3, 8), rtol=0.3, atol=0)
    # In the band it may use, it is the code of that band alone.
    alone = AdaptiveCode(16, CHANNELS, 3, 16)
    fit_adaptive_code(alone, [frames[..., covered]], torch.ones(16, dtype=torch.bool))
    left = (frames[..., covered] - kept[..., covered]).square().sum()
    assert float(left) == pytest.approx(
        error(alone, frames[..., covered]) * float(frames[..., covered].square().sum()), rel=0.02
    )


def test_a_band_with_fewer_values_than_components_is_refused():
    code = AdaptiveCode(FEATURES, CHANNELS, 2, FEATURES)
    with pytest.raises(ValueError, match="4 components, but only 3 .* linear_code_top_hz"):
        fit_adaptive_code(code, planes(2), torch.arange(FEATURES) < 3)
