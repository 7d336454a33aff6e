"""How soon does the discriminator find damage, with and without compressed magnitudes?

python experiments/discriminator/compression.py

Trained alone on crops of the shipped clips and their low-passed, mono and phase-scrambled copies:
share of crops and copies on the right side, after every 20 batches of four.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[2]))

from earvae.config import DiscriminatorConfig  # noqa: E402
from earvae.discriminator import Discriminator  # noqa: E402
from earvae.objective.adversarial import discriminator_terms  # noqa: E402
from tests.test_discriminator import all_crops, low_passed, mono, phase_scrambled  # noqa: E402

STEPS = 120


def main() -> None:
    crops = all_crops()
    table = Table(title=f"accuracy over {len(crops)} crops and as many copies")
    for column in ("exponent", "copies", *(str(n) for n in range(20, STEPS + 1, 20))):
        table.add_column(column, justify="right")
    for exponent in (1.0, 0.3):
        for damage in (low_passed, mono, phase_scrambled):
            torch.manual_seed(0)
            config = DiscriminatorConfig(channels=4, resolutions=(1024, 256), compression=exponent)
            discriminator = Discriminator(config)
            optimiser = torch.optim.AdamW(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.9))
            copies = damage(crops)
            random = torch.Generator().manual_seed(0)
            found = []
            for step in range(1, STEPS + 1):
                chosen = torch.randperm(len(crops), generator=random)[:4]
                real, fake = discriminator(crops[chosen]), discriminator(copies[chosen])
                optimiser.zero_grad()
                discriminator_terms(real, fake).total.backward()
                optimiser.step()
                if step % 20 == 0:
                    with torch.no_grad():
                        terms = discriminator_terms(discriminator(crops), discriminator(copies))
                    found.append(f"{terms.accuracy:.2f}")
            table.add_row(str(exponent), damage.__name__, *found)
    Console().print(table)


if __name__ == "__main__":
    main()
