"""Validation: fixed crops through the averaged weights; their figures, per band and channel."""

from __future__ import annotations

import math
from collections import defaultdict

import torch
from lightning_fabric import Fabric
from torch import Tensor

from earvae.config import TrainConfig
from earvae.evaluation.metrics import Signal
from earvae.evaluation.metrics.evenness import evenness_figures
from earvae.evaluation.metrics.lines import LINE_BANDS, line_figures
from earvae.evaluation.metrics.octaves import BANDS_HZ as OCTAVES
from earvae.evaluation.metrics.octaves import WINDOW
from earvae.evaluation.metrics.panning import panning_figures
from earvae.evaluation.metrics.repetition import repetition_figures
from earvae.model.posterior import Posterior
from earvae.model.vae import EarVAE
from earvae.objective.perceptual import PerceptualLoss
from earvae.si_sdr import si_sdr
from earvae.training.crops import CropDataset
from earvae.training.loader import make_loader
from earvae.training.log import RunLog

HEARD = {
    repetition_figures: [f"repetition_{band}" for band in OCTAVES],
    evenness_figures: [f"evenness_{band}" for band in OCTAVES],
    panning_figures: [f"panning_{band}" for band in OCTAVES],
    line_figures: [f"{kind}_{band}" for kind in ("lines_f1", "invented") for band in LINE_BANDS],
}
"""Measures of what distances do not hear (docs/measures.md), and what is logged of each."""
BANDS_HZ = (0, 120, 250, 500, 1000, 2000, 4000, 8000, 22050)


def figure_names(config: TrainConfig) -> list[str]:
    """Names of the figures that :func:`validate` gives one number of, in any stage."""
    bands = [f"{low}_{high}" for low, high in zip(BANDS_HZ, BANDS_HZ[1:], strict=False)]
    names = ["total", "si_sdr", *(f"{kind}_{band}" for kind in ("sdr", "level") for band in bands)]
    names += [name for of_measure in HEARD.values() for name in of_measure]
    for stage in config.stages:
        names += [term for term, weight in stage.balanced_objective().weights if weight]
    return sorted({f"validation/{name}" for name in names})


@torch.no_grad()
def validate(
    fabric: Fabric,
    log: RunLog,
    dataset: CropDataset,
    items: int,
    vae: EarVAE,
    objective: PerceptualLoss,
    step: int,
) -> dict[str, float | list[float]]:
    """Mean figures over the first ``items`` crops of ``dataset``, logged and returned.

    Names: ``validation/<term>`` and ``validation/total`` (all resolutions), ``validation/si_sdr``
    (dB), ``validation/sdr_<low>_<high>`` (dB in that band), ``validation/level_<low>_<high>`` (dB
    of reconstruction over original), and those of ``HEARD``, such as ``validation/repetition_2-4``;
    NaN where no item counts. ``latent_mean``, ``latent_std`` and ``latent_kl``, a list with one
    figure a channel. Latents are the posterior mean.

    Every rank makes the same number of forward passes, which for a sharded model are collective:
    one that has no items left passes silence through, which does not count.
    """
    objective.eval()
    rate = vae.sample_rate
    loader = make_loader(dataset, 0, items, rank=fabric.global_rank, world_size=fabric.world_size)
    passes = math.ceil(items / (dataset.config.batch_size * fabric.world_size))
    # per figure: sum over the items it counts for, and their number
    sums: defaultdict[str, Tensor | int] = defaultdict(int)
    first = True
    for batch in loader:
        passes -= 1
        audio = fabric.to_device(batch["audio"])
        reconstruction, posterior, *nll = vae(audio, surprise="nll" in objective.weights)
        audio = audio[..., : audio.shape[2] - vae.decoder.tail_deficit]  # the rest is silence
        reconstruction = reconstruction[..., : audio.shape[2]]
        terms = objective(
            reconstruction, audio, posterior_kl=posterior.kl(), nll=nll[0] if nll else None
        )
        everyone = torch.ones(len(audio), dtype=torch.bool, device=audio.device)
        wholes = terms.terms | {"total": terms.total}
        figures = {name: (value.expand(len(audio)), everyone) for name, value in wholes.items()}
        figures["si_sdr"] = (si_sdr(reconstruction, audio), everyone)
        figures |= band_figures(reconstruction, audio, rate)
        figures |= heard_figures(reconstruction, audio, rate, vae.hop_length)
        for name, (values, counted) in figures.items():
            both = torch.stack([values[counted].sum().double(), counted.sum().double()])
            sums[f"validation/{name}"] += both
        for name, values in channel_sums(posterior).items():
            sums[name] += values
        if first:
            log.clips(reconstruction, audio, rate, step)
        first = False
    for _ in range(passes):
        vae(torch.zeros(1, 2, dataset.config.crop_samples, device=fabric.device))
    objective.train()
    _gather(fabric, sums)
    means: dict[str, float | list[float]] = {}
    for name, both in sums.items():
        if name.startswith("validation/"):
            means[name] = (both[0] / both[1]).item()
    means |= {name: value.tolist() for name, value in channel_figures(sums).items()}
    log.figures(means, step)
    return means


def channel_sums(posterior: Posterior) -> dict[str, Tensor]:
    """What :func:`channel_figures` needs of a batch; sums may be added up over batches."""
    mean = posterior.mean.double()
    frames = mean.new_tensor([mean.shape[0] * mean.shape[2]])
    return {
        "frames": frames,
        "mean": mean.sum(dim=(0, 2)),
        "square": mean.square().sum(dim=(0, 2)),
        "kl": posterior.kl_per_channel().double() * frames,
    }


def channel_figures(sums: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mean and standard deviation of the posterior means, and the KL, of each latent channel."""
    frames = sums["frames"].clamp_min(1)
    mean = sums["mean"] / frames
    return {
        "latent_mean": mean,
        "latent_std": (sums["square"] / frames - mean.square()).clamp_min(0).sqrt(),
        "latent_kl": sums["kl"] / frames,
    }


def _gather(fabric: Fabric, sums: dict[str, Tensor]) -> None:
    """Sums over ranks, in place. A rank may have had no items; the first one has some."""
    shapes = fabric.broadcast({name: tuple(value.shape) for name, value in sums.items()})
    for name, shape in shapes.items():
        own = sums.get(name, torch.zeros(shape, dtype=torch.double, device=fabric.device))
        sums[name] = fabric.all_reduce(own, reduce_op="sum")


def heard_figures(
    reconstruction: Tensor, target: Tensor, sample_rate: int, hop: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """The figures of ``HEARD``, ``[batch]``, and which items have them, ``[batch]``.

    Both signals are ``[batch, 2, samples]``; ``hop`` is that of the latents. Items shorter than
    8192 samples, and what is not finite, have none of these figures.
    """
    rows = []
    for x, y in zip(reconstruction.float().cpu(), target.float().cpu(), strict=True):
        if y.shape[1] < WINDOW or not x.isfinite().all():
            rows.append({})
            continue
        pair = Signal(x, sample_rate, hop), Signal(y, sample_rate, hop)
        rows.append({name: value for f in HEARD for name, value in f(*pair).items()})
    figures = {}
    for name in (name for of_measure in HEARD.values() for name in of_measure):
        values = target.new_tensor([row.get(name, math.nan) for row in rows])
        figures[name] = (values, values.isfinite())
    return figures


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
