"""Put weights into the package as the shipped model, in half precision.

python tools/ship.py runs/final
"""

from __future__ import annotations

import argparse

import torch

from earvae import EarVAE
from earvae.model.pretrained import SHIPPED
from earvae.model.saved import WEIGHTS_NAME


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="any source of EarVAE.from_pretrained")
    arguments = parser.parse_args()
    EarVAE.from_pretrained(arguments.source).save_pretrained(SHIPPED, dtype=torch.float16)
    size = (SHIPPED / WEIGHTS_NAME).stat().st_size
    print(f"{SHIPPED}: {size / 1e6:.1f} MB, model {EarVAE.from_pretrained().identity}")


if __name__ == "__main__":
    main()
