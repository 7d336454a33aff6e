"""A trained compact model whose linear code is made exactly zero above a frequency, and which may
get more decoder blocks: where to go on training from.

    python experiments/bound_code.py SOURCE NEW.yaml runs/start

The bases are cut off above `linear_code_top_hz` of NEW.yaml and made orthonormal again; directions
that lay above it fall away, so the subspace shrinks to what is left, which must be what NEW.yaml's
model says. The statistics of the classes are measured anew, on 2000 training crops of its first
stage. Further decoder blocks start with a layer scale of 0.01, nearly doing nothing. All other
layers and the envelope code are taken over. Printed: SI-SDR of the linear code alone on the middle
ten seconds of each validation track, before and after.
"""

from __future__ import annotations

import statistics
import sys

import torch
from envelope import middle
from torch import Tensor

from earvae import EarVAE
from earvae.config import SourceConfig, TrainConfig, read
from earvae.evaluation.metrics import si_sdr
from earvae.model.adaptive import measure_classes
from earvae.model.spectral import round_to_half
from earvae.training.crops import CropDataset
from earvae.training.loader import make_loader
from earvae.training.sources import list_tracks

MEASURED = 2000  # crops
CUT = 0.05  # a direction that keeps less of its energy than this lay above the top
NEW_SCALE = 0.01


@torch.no_grad()
def main() -> None:
    source, recipe, output = sys.argv[1:]
    old, config = EarVAE.from_pretrained(source), read(TrainConfig, recipe)
    covered = old.encoder.transform.frequencies(old.sample_rate) < config.linear_code_top_hz
    subspace, basis = bounded(old, covered)
    rank = subspace.shape[1]
    print(f"subspace: {rank} dimensions")
    if rank != config.model.linear_subspace:
        raise SystemExit(f"{recipe}: set linear_subspace to {rank}")

    torch.manual_seed(config.seed)
    new = EarVAE(config.model).eval()
    weights = new.state_dict()
    for name, value in old.state_dict().items():
        if value.shape == weights[name].shape:
            weights[name].copy_(value)
    new.decoder.makeup.fill_(1)
    for block in new.decoder.blocks[len(old.decoder.blocks) :]:
        block.scale.fill_(NEW_SCALE)
    new.encoder.code.subspace.copy_(subspace)
    new.encoder.code.basis.copy_(basis)
    dataset = CropDataset(config.stages[0].data, new.sample_rate)
    whole = dataset.config.crop_samples // new.hop_length * new.hop_length
    crops = (batch["audio"][..., :whole] for batch in make_loader(dataset, 0, MEASURED))
    measure_classes(new.encoder.code, [new.encoder.transform(audio) for audio in crops])
    round_to_half(new.encoder.code)
    new.save_pretrained(output)

    music = SourceConfig(tracks=config.validation.sources[0].tracks, split="validation")
    clips = [middle(track, 10, new) for track in list_tracks(music)[0]]
    for name, vae in (("before", old), ("after", new)):
        values = [code_alone(vae, clip) for clip in clips]
        median, mean = statistics.median(values), statistics.mean(values)
        print(f"linear code alone, {name}: median {median:.2f} dB, mean {mean:.2f}")


def bounded(vae: EarVAE, covered: Tensor) -> tuple[Tensor, Tensor]:
    """The code's ``subspace`` and ``basis``, cut off where ``covered`` (bool ``[features]``) is
    false, and orthonormal."""
    code = vae.encoder.code
    cut = code.subspace.double() * covered[:, None]
    left, vectors = torch.linalg.eigh(cut.T @ cut)
    left, vectors = left[left > CUT], vectors[:, left > CUT]
    subspace = cut @ vectors / left.sqrt()
    bases = code.basis.double().unflatten(1, (code.classes, code.channels)).permute(1, 0, 2)
    bases = left.sqrt()[:, None] * (vectors.T @ bases)  # [classes, rank, channels]
    # The nearest orthonormal columns (polar decomposition).
    first, _, second = torch.linalg.svd(bases, full_matrices=False)
    return subspace.float(), (first @ second).permute(1, 0, 2).flatten(1).float()


def code_alone(vae: EarVAE, audio: Tensor) -> float:
    """SI-SDR in dB of what the linear code keeps of ``[2, samples]``."""
    code, transform = vae.encoder.code, vae.encoder.transform
    kept = transform.inverse(code.decode(*code.encode(transform(audio[None]))))[0]
    return float(si_sdr(kept, audio).mean())


if __name__ == "__main__":
    main()
