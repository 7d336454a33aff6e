"""Batches of latents, stopped in the middle and gone on with."""

from itertools import islice

import torch

from earvae.latents import LatentDataset


def batches(state=None):
    """The dataset, and its batches from there on."""
    dataset = LatentDataset(
        "latents/", frames=256, statistics="latents/latent_stats.json", sample=True, batch_size=2
    )
    if state is not None:
        dataset.load_state_dict(state)
    return dataset, iter(torch.utils.data.DataLoader(dataset, batch_size=2, num_workers=2))


if __name__ == "__main__":
    dataset, loader = batches()
    seen = list(islice(loader, 6))
    for batch in seen:
        latents = batch["latents"]
        print(tuple(latents.shape), f"std {latents.std():.2f}", *batch["metadata"]["source"])
    state = dataset.state_dict(seen[2])  # after the third
    print(state)
    _, again = batches(state)
    rest = list(islice(again, 3))
    same = all(
        torch.equal(one["latents"], other["latents"])
        for one, other in zip(seen[3:], rest, strict=True)
    )
    print("the same from there:", same)
