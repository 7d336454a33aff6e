import numpy as np
import torch

from earvae.model.linear import FrameStatistics, code_from_covariance, fit_linear_code


def frames_of_rank(rank: int, features: int = 24, count: int = 4000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(rank, features, generator=generator)
    return torch.randn(8, count // 8, rank, generator=generator) @ mixing


def test_data_of_low_rank_is_kept_exactly():
    frames = frames_of_rank(5)
    code = fit_linear_code([frames], 24, 5)
    torch.testing.assert_close(code.decode(code.encode(frames)), frames, atol=1e-3, rtol=0)
    assert code.explained().min() > 0.999


def test_components_are_those_of_a_singular_value_decomposition():
    frames = frames_of_rank(24)
    frames = frames / frames.square().mean(dim=(1, 2), keepdim=True).sqrt()  # as the fit does
    code = fit_linear_code([frames], 24, 6)
    _, _, right = np.linalg.svd(frames.reshape(-1, 24).numpy(), full_matrices=False)
    overlap = np.abs(right[:6] @ code.basis.numpy())
    np.testing.assert_allclose(np.diag(overlap), 1, atol=1e-3)


def test_latents_are_white():
    frames = frames_of_rank(24)
    frames = frames / frames.square().mean(dim=(1, 2), keepdim=True).sqrt()
    latents = fit_linear_code([frames], 24, 6).encode(frames).reshape(-1, 6)
    covariance = latents.T @ latents / len(latents)
    torch.testing.assert_close(covariance, torch.eye(6), atol=2e-3, rtol=0)


def test_explained_and_residual_add_up_to_the_variance():
    statistics = FrameStatistics(24)
    statistics.update(frames_of_rank(24))
    covariance, _ = statistics.finish()
    code = code_from_covariance(covariance, 6)
    kept = (code.basis * code.std).square().sum(dim=1)
    total = kept + code.residual_std.square()
    torch.testing.assert_close(total, covariance.diagonal().float(), rtol=1e-4, atol=0)


def test_a_loud_excerpt_counts_no_more_than_a_quiet_one():
    frames = frames_of_rank(24)
    louder = frames.clone()
    louder[0] *= 100
    quiet, loud = fit_linear_code([frames], 24, 6), fit_linear_code([louder], 24, 6)
    overlap = (quiet.basis.T @ loud.basis).diagonal().abs()
    torch.testing.assert_close(overlap, torch.ones(6), atol=1e-4, rtol=0)
