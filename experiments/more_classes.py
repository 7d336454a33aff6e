"""A compact model with another linear code, started from a trained one.

python experiments/more_classes.py runs/old/ema new.yaml runs/start

The codes are fitted as for a model from scratch (`linear_code_crops` of new.yaml). Layers are taken
over; what reads a class starts at the mean of what read the old classes of the same frames; latents
that there were not before start unread, and the last learned latents fall away where there are
fewer. The envelope code is the old one, cut to the learned latents that are left. runs/start is for
`initial_weights`.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F

from earvae import EarVAE
from earvae.config import CLASS_LATENTS, TrainConfig, read
from earvae.training.crops import CropDataset
from earvae.training.loader import make_loader
from earvae.training.set_up import initial_model

COUNTED = 800  # crops over which old and new classes are matched


def main() -> None:
    old = EarVAE.from_pretrained(sys.argv[1])
    config = read(TrainConfig, sys.argv[2])
    new = initial_model(config)
    weights = new.state_dict()
    for name, value in old.state_dict().items():
        if ".code." not in name and value.shape == weights[name].shape:
            weights[name].copy_(value)

    linear = min(old.config.linear_channels, new.config.linear_channels)
    learned = min(old.config.learned_channels, new.config.learned_channels)
    with torch.no_grad():
        features = new.encoder.transform.features
        _columns(new.encoder.input, old.encoder.input, [(0, features + linear)])
        levels = new.encoder.envelope.levels
        new.encoder.input.weight[:, -levels:] = old.encoder.input.weight[:, -levels:]
        _columns(new.decoder.input, old.decoder.input, [(0, linear)])
        start, before = new.config.linear_channels, old.config.linear_channels
        new.decoder.input.weight[:, start : start + learned] = old.decoder.input.weight[
            :, before : before + learned
        ]
        for parameter in ("weight", "bias"):  # rows: means, then scales
            mine = getattr(new.encoder.output, parameter)
            theirs = getattr(old.encoder.output, parameter)
            for half, source in zip(mine.chunk(2), theirs.chunk(2), strict=True):
                half[:learned] = source[:learned]
        for buffer in ("basis", "std"):
            mine = getattr(new.encoder.envelope, buffer)
            mine[..., :learned] = getattr(old.encoder.envelope, buffer)[..., :learned].half()
        new.encoder.envelope.mean.copy_(old.encoder.envelope.mean.half())
        fixed = new.config.linear_channels + CLASS_LATENTS
        new.encoder.fixed_scale.copy_(old.encoder.fixed_scale.mean().expand(fixed))

        share = _shared_frames(old, new, config)  # [new classes, old classes], rows sum to 1
        for mine, theirs in ((new.encoder, old.encoder), (new.decoder, old.decoder)):
            mine.class_input.weight.copy_(theirs.class_input.weight @ share.T)
    new.save_pretrained(sys.argv[3])


def _columns(mine: torch.nn.Linear, theirs: torch.nn.Linear, parts: list[tuple[int, int]]) -> None:
    """Take over the bias and columns ``(start, count)``; the others become zero."""
    mine.weight.zero_()
    mine.bias.copy_(theirs.bias)
    for start, count in parts:
        columns = slice(start, start + count)
        mine.weight[:, columns] = theirs.weight[:, columns]


def _shared_frames(old: EarVAE, new: EarVAE, config: TrainConfig) -> torch.Tensor:
    """Of each new class, the share of its frames in each old class."""
    count = torch.full((new.config.linear_classes, old.config.linear_classes), 1e-3)
    dataset = CropDataset(config.stages[0].data, config.model.sample_rate)
    for batch in make_loader(dataset, 0, COUNTED):
        whole = batch["audio"].shape[-1] // new.hop_length * new.hop_length
        frames = new.encoder.transform(batch["audio"][..., :whole])
        classes = [vae.encoder.code.encode(frames)[1].flatten(0, 1) for vae in (new, old)]
        count += classes[0].T @ classes[1]
    return F.normalize(count, p=1, dim=1)


if __name__ == "__main__":
    main()
