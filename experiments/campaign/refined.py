"""How much better latents could be than those that the encoder gives.

    python refined.py FILE.flac ... [--weights MODEL] [--steps 40] [--rate 0.02]

The latents of levels of each file's first ten seconds are moved by gradient (Adam) to where the
decoder finds the music least surprising, all else left as it is. Prints the surprise of frames
and of fine spectra, by how much the latents moved, and figures of both, before and after.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from earvae.audio import read_audio
from earvae.evaluation.metrics.judges import zimtohrli_figure
from earvae.evaluation.metrics.lines import line_figures
from earvae.evaluation.metrics.published import published_figures
from earvae.evaluation.metrics.signal import Signal
from earvae.model.compact import latents_by_kind
from earvae.model.vae import EarVAE

RATE, FRAMES = 44_100, 430
SHOWN = ("si_sdr", "mel", "stft", "lines_f1_0.2-1", "lines_f1_1-2", "lines_f1_2-4")


def surprises(vae: EarVAE, latents: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
    """Of frames and of fine spectra, scalars, at audio ``[1, 2, frames·hop]`` when the decoder has
    latents ``[1, latent, frames]``."""
    decoder = vae.decoder
    expected = decoder.expect(decoder.tell(latents))
    left_over = audio - decoder.transform.inverse(expected.mean)
    fine = decoder.fine_surprise(expected, left_over, audio)
    return decoder.surprise(expected, decoder.transform(audio)), fine


def show(name: str, vae: EarVAE, latents: Tensor, audio: Tensor) -> None:
    with torch.no_grad():
        decoded, original = Signal(vae.decode(latents)[0]), Signal(audio[0])
        of_frames, fine = surprises(vae, latents, audio)
    figures = published_figures(decoded, original) | line_figures(decoded, original)
    told = "  ".join(f"{key} {float(figures[key]):.3f}" for key in SHOWN)
    judged = zimtohrli_figure(decoded, original)
    print(f"{name}: surprise {of_frames:.3f} and {fine:.3f}  Zimtohrli {judged:.2f}  {told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--weights")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rate", type=float, default=0.02)
    args = parser.parse_args()
    vae = EarVAE.from_pretrained(args.weights) if args.weights else EarVAE.from_pretrained()
    vae.eval().requires_grad_(False)
    fixed = sum(latents_by_kind(vae.config)[:2])
    for file in args.files:
        audio = read_audio(file, RATE)[None, :, : FRAMES * 1024]
        audio = audio[..., : audio.shape[-1] // 1024 * 1024]
        with torch.no_grad():
            latents = vae.encode(audio).mode()
        show(f"{file}, encoded", vae, latents, audio)
        bass, levels = latents[:, :fixed], latents[:, fixed:].clone().requires_grad_()
        before, adam = levels.detach().clone(), torch.optim.Adam([levels], lr=args.rate)
        for _ in range(args.steps):
            adam.zero_grad()
            sum(surprises(vae, torch.cat([bass, levels], dim=1), audio)).backward()
            adam.step()
        moved = (levels.detach() - before).square().mean().sqrt() / before.std()
        print(f"  moved by {moved:.2f} of their spread")
        show("  refined", vae, torch.cat([bass, levels.detach()], dim=1), audio)


if __name__ == "__main__":
    main()
