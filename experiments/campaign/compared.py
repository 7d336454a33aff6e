"""Two models side by side: surprise by octave, and judges over several places of the noise.

    python compared.py MODEL OTHER FILE [FILE …] [--seconds 6]

The first seconds of each file. Surprise in nats for a pair of coefficients of Left and Right, a
mean over files. Zimtohrli and ViSQOL are means over the places where a file may begin in the
stored noise; then their difference, OTHER less MODEL, with its standard error over files.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from earvae import EarVAE
from earvae.audio import read_audio
from earvae.evaluation.metrics.judges import visqol_figure, zimtohrli_figure
from earvae.evaluation.metrics.signal import Signal

RATE = 44_100
EDGES_HZ = (0, 200, 500, 1000, 2000, 4000, 8000, 16_000, RATE // 2)
PLACES = (0, 1000, 3333, 7777)  # frames


def by_octave(vae: EarVAE, latents: Tensor, audio: Tensor) -> list[float]:
    """Surprise of frames in each band of EDGES_HZ, at audio ``[1, 2, frames·hop]`` when the decoder
    has latents ``[1, latent, frames]``."""
    decoder = vae.decoder
    expected, frames = decoder.expect(decoder.tell(latents)), decoder.transform(audio)
    share = decoder.surprise.share.clone()
    hz, found = decoder.transform.frequencies(RATE)[: len(share)], []
    for low, high in zip(EDGES_HZ, EDGES_HZ[1:], strict=False):
        inside = share * ((hz >= low) & (hz < high))
        decoder.surprise.share.copy_(inside / inside.sum())
        found.append(float(decoder.surprise(expected, frames)))
    decoder.surprise.share.copy_(share)
    return found


def judged(vae: EarVAE, latents: Tensor, audio: Tensor) -> list[float]:
    """Zimtohrli and ViSQOL, means over PLACES."""
    original, found = Signal(audio[0]), []
    for place in PLACES:
        decoded = Signal(vae.decoder(latents, place)[0])
        found.append([zimtohrli_figure(decoded, original), visqol_figure(decoded, original)])
    return torch.tensor(found).mean(dim=0).tolist()


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs=2, metavar="MODEL")
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--seconds", type=float, default=6.0)
    options = parser.parse_args()
    models = [EarVAE.from_pretrained(name).eval() for name in options.models]
    octaves, judges = [], []
    for file in options.files:
        hop = models[0].hop_length
        audio = read_audio(file, RATE)[None, :, : int(options.seconds * RATE) // hop * hop]
        audio = audio[..., : audio.shape[-1] // hop * hop]
        latents = [vae.encode(audio).mode() for vae in models]
        pairs = list(zip(models, latents, strict=True))
        octaves.append([by_octave(vae, its, audio) for vae, its in pairs])
        judges.append([judged(vae, its, audio) for vae, its in pairs])
    surprise = torch.tensor(octaves).mean(dim=0)
    for low, high, (one, other) in zip(EDGES_HZ, EDGES_HZ[1:], surprise.T.tolist(), strict=False):
        print(f"{low:6} to {high:5} Hz  {one:8.3f} {other:8.3f}  {other - one:+.3f}")
    found = torch.tensor(judges)  # [files, 2, judges]
    more = found[:, 1] - found[:, 0]
    errors = more.std(dim=0) / len(more) ** 0.5
    for number, name in enumerate(("Zimtohrli", "ViSQOL")):
        one, other = found[:, :, number].mean(dim=0).tolist()
        told = f"{more[:, number].mean():+.3f} ± {errors[number]:.3f}"
        print(f"{name:17} {one:8.3f} {other:8.3f}  {told}")


if __name__ == "__main__":
    main()
