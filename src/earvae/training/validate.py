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
    loader = make_loader(config.validation, rate, 0, config.validation_items)
    sums: dict[str, float] = {}
    items = 0
    for batch in loader:
        audio = fabric.to_device(batch["audio"])
        posterior = vae.encode(audio)
        reconstruction = vae.decode(posterior.mode())[..., : audio.shape[2]]
        terms = objective(reconstruction, audio, posterior_kl=posterior.kl())
        figures = {name: float(value) for name, value in terms.terms.items()}
        figures["total"] = float(terms.total)
        figures["si_sdr"] = float(si_sdr(reconstruction, audio).mean())
        figures |= band_figures(reconstruction, audio, rate)
        for name, value in figures.items():
            sums[name] = sums.get(name, 0.0) + value * len(audio)
        if items == 0:
            _log_clips(fabric, reconstruction, audio, rate, step)
        items += len(audio)
    objective.train()
    means = {f"validation/{name}": value / items for name, value in sums.items()}
    fabric.log_dict(means, step=step)
    return means


def band_figures(reconstruction: Tensor, target: Tensor, sample_rate: int) -> dict[str, float]:
    """SDR and level difference in dB per band, averaged over the batch.

    Both are ``[batch, 2, samples]``. A band quieter than -60 dB of its item counts for nothing.
    """
    ours, theirs = torch.fft.rfft(reconstruction), torch.fft.rfft(target)
    frequency = torch.linspace(0, sample_rate / 2, ours.shape[-1], device=ours.device)
    whole = theirs.abs().square().sum(dim=(1, 2))
    figures = {}
    for low, high in zip(BANDS_HZ, BANDS_HZ[1:], strict=False):
        band = (frequency >= low) & (frequency < high)
        energy = theirs[..., band].abs().square().sum(dim=(1, 2))
        kept = ours[..., band].abs().square().sum(dim=(1, 2))
        error = (ours[..., band] - theirs[..., band]).abs().square().sum(dim=(1, 2))
        heard = energy > 1e-6 * whole
        if heard.any():
            sdr = 10 * torch.log10(energy[heard] / error[heard].clamp_min(1e-12))
            level = 10 * torch.log10(kept[heard].clamp_min(1e-12) / energy[heard])
            figures[f"sdr_{low}_{high}"] = float(sdr.mean())
            figures[f"level_{low}_{high}"] = float(level.mean())
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
