"""Validation: fixed crops through the averaged weights, figures, audio and spectrograms."""

from __future__ import annotations

import math

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from earvae.config import TrainConfig
from earvae.evaluation.metrics import si_sdr
from earvae.objective.perceptual import PerceptualLoss
from earvae.training.data import make_loader

BANDS_HZ = (0, 120, 250, 500, 1000, 2000, 4000, 8000, 22050)
CLIPS_TO_LISTEN_TO = 4


@torch.no_grad()
def validate(
    fabric: Fabric, config: TrainConfig, vae: nn.Module, objective: PerceptualLoss, step: int
) -> dict[str, float]:
    """Mean figures over the fixed validation crops, logged and returned.

    Names: ``validation/<term>`` and ``validation/total`` (all resolutions), ``validation/si_sdr``
    (dB), ``validation/sdr_<low>_<high>`` (dB in that band) and ``validation/level_<low>_<high>``
    (dB of reconstruction over original). Latents are the posterior mean.
    """
    vae.eval()
    objective.eval()
    rate = config.model.sample_rate
    loader = make_loader(
        config.validation,
        rate,
        0,
        config.validation_items,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    sums: dict[str, Tensor] = {}  # per figure: sum over the items it counts for, and their number
    first = True
    for batch in loader:
        audio = fabric.to_device(batch["audio"])
        posterior = vae.encode(audio)
        reconstruction = vae.decode(posterior.mode())[..., : audio.shape[2]]
        terms = objective(reconstruction, audio, posterior_kl=posterior.kl())
        everyone = torch.ones(len(audio), dtype=torch.bool, device=audio.device)
        wholes = terms.terms | {"total": terms.total}
        figures = {name: (value.expand(len(audio)), everyone) for name, value in wholes.items()}
        figures["si_sdr"] = (si_sdr(reconstruction, audio), everyone)
        figures |= band_figures(reconstruction, audio, rate)
        for name, (values, counted) in figures.items():
            both = torch.stack([values[counted].sum(), counted.sum()]).double()
            sums[name] = sums.get(name, torch.zeros_like(both)) + both
        if first:
            _log_clips(fabric, reconstruction, audio, rate, step)
        first = False
    objective.train()
    means = {}
    for name in fabric.broadcast(list(sums)):  # a rank may have had no items, the first has some
        both = sums.get(name, torch.zeros(2, dtype=torch.double, device=fabric.device))
        total, count = fabric.all_reduce(both, reduce_op="sum").tolist()
        means[f"validation/{name}"] = total / max(1.0, count)
    fabric.log_dict(means, step=step)
    return means


def band_figures(
    reconstruction: Tensor, target: Tensor, sample_rate: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """SDR and level difference in dB per band, ``[batch]``, and which items count, ``[batch]``.

    Both signals are ``[batch, 2, samples]``. A band more than 60 dB below its whole item does
    not count.
    """
    ours, theirs = torch.fft.rfft(reconstruction), torch.fft.rfft(target)
    frequency = torch.linspace(0, sample_rate / 2, ours.shape[-1], device=ours.device)
    whole = theirs.abs().square().sum(dim=(1, 2))
    figures = {}
    for low, high in zip(BANDS_HZ, BANDS_HZ[1:], strict=False):
        band = (frequency >= low) & (frequency < high)
        energy = theirs[..., band].abs().square().sum(dim=(1, 2))
        kept = ours[..., band].abs().square().sum(dim=(1, 2)).clamp_min(1e-12)
        error = (ours[..., band] - theirs[..., band]).abs().square().sum(dim=(1, 2))
        heard = energy > 1e-6 * whole
        energy = energy.clamp_min(1e-12)
        figures[f"sdr_{low}_{high}"] = (10 * (energy / error.clamp_min(1e-12)).log10(), heard)
        figures[f"level_{low}_{high}"] = (10 * (kept / energy).log10(), heard)
    return figures


def _log_clips(
    fabric: Fabric, reconstruction: Tensor, target: Tensor, sample_rate: int, step: int
) -> None:
    """Audio and spectrogram pictures of the first clips, to TensorBoard."""
    if not fabric.is_global_zero:
        return
    writer = fabric.logger.experiment
    for index in range(min(CLIPS_TO_LISTEN_TO, len(target))):
        pair = {"original": target[index], "reconstruction": reconstruction[index]}
        for name, audio in pair.items():
            audio = audio.detach().cpu().clamp(-1, 1)
            if name != "original" or step <= 1:
                # TensorBoard's audio summary is mono: the mid channel.
                writer.add_audio(f"clip_{index}/{name}", audio.mean(0)[None], step, sample_rate)
            writer.add_image(f"clip_{index}/{name}", spectrogram_picture(audio), step)


def spectrogram_picture(audio: Tensor, length: int = 2048, range_db: float = 90.0) -> Tensor:
    """``[2, samples]`` to a grey picture ``[1, height, width]`` in 0…1: left above right."""
    window = torch.hann_window(length, device=audio.device)
    power = torch.stft(audio, length, length // 4, window=window, return_complex=True).abs()
    decibel = 20 * torch.log10(power / math.sqrt(length) + 1e-8)
    scaled = ((decibel + range_db) / range_db).clamp(0, 1).flip(1)  # [2, bins, frames]
    return torch.cat(list(scaled), dim=0)[None]
