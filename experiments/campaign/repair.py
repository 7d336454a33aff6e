"""Give the spectral model that shipped until 2026-12 a decoder of noise and tones: its start.

    mkdir old && cd old && git show 1ac9034:src/earvae/model/weights/config.json > config.json
    git show 1ac9034:src/earvae/model/weights/model.safetensors > model.safetensors && cd ..
    python experiments/campaign/repair.py old experiments/campaign/repair.yaml runs/repair_start
    earvae train experiments/campaign/repair.yaml --run runs/repair

The encoder and its codes stay as they are; the decoder's levels and shares start as linear laws,
fitted on crops of the recipe's music, and its blocks at random.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from earvae import EarVAE
from earvae.config import SpectralConfig, TrainConfig, read
from earvae.model.spectral import fit_levels
from earvae.training.crops import CropDataset
from earvae.training.loader import make_batches

CROPS = 600
DECODER_BLOCKS = 6  # one fewer than the old decoder's, so that the file stays below 32 MB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, help="folder with config.json and model.safetensors")
    parser.add_argument("recipe", type=Path, help="of the music that levels are fitted on")
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    config = json.loads((arguments.old / "config.json").read_text())
    kept = {name: value for name, value in config.items() if not name.startswith("latents_")}
    torch.manual_seed(0)
    vae = EarVAE(SpectralConfig(**kept | {"decoder_blocks": DECODER_BLOCKS}))
    old = load_file(arguments.old / "model.safetensors")
    state = vae.state_dict()
    for name, tensor in state.items():
        if name.startswith("encoder.") or ".code." in name:
            tensor.copy_(old[name] if name in old else old[name.replace("decoder.", "encoder.")])
    vae.load_state_dict(state)
    # The recipe starts from what is made here, so its own start is not looked at.
    data = read(TrainConfig, arguments.recipe).stages[0].data
    batches = make_batches(CropDataset(data, vae.sample_rate), 0, CROPS, torch.device("cpu"))
    fit_levels(vae.encoder, vae.decoder, (batch["audio"] for batch in batches))
    vae.save_pretrained(arguments.output)
    print(f"{arguments.output}: model {vae.identity}")


if __name__ == "__main__":
    main()
