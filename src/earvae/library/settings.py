"""What decides the content of encoded files, and the record of it in the output folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from earvae import json_files
from earvae.atomic import Staging
from earvae.library.items import LibraryError

RECORD = "library.json"
FORMAT = "earvae-library"
VERSION = 1

PLAIN = {"engine": "plain", "precision": "fp32"}  # not in the digest

Store = Literal["mean", "mean+std", "sample"]
Payload = Literal["safetensors", "npy"]


@dataclass(frozen=True)
class Settings:
    """Everything but the audio that latents depend on beyond float rounding, and their layout.

    Not in here, because they only move the last bits: device, threads, batches, chunks. Engine and
    precision are those that were really used, never "auto"; two engines of equal results differ
    in the last bits too, and a library made with both could not be made again.
    """

    model: str  # EarVAE.identity
    sample_rate: int  # Hz, of the model
    hop_length: int  # samples per latent frame
    latent_channels: int
    store: Store = "mean"
    seed: int | None = None  # of the sample
    half: bool = False  # float16 instead of float32
    downmix: bool = False
    segment_frames: int | None = None  # None: a track is one entry
    normalised: str | None = None  # digest of the statistics
    payload: Payload = "safetensors"
    shard_items: int | None = None  # files that share a shard; None: no shards
    engine: str = "plain"  # plain, exact or fast
    precision: str = "fp32"  # or bf16, of the engine's products

    @property
    def digest(self) -> str:
        """Twelve hex digits that change with any field. Every file of a library carries them."""
        values = {k: v for k, v in asdict(self).items() if (k, v) not in PLAIN.items()}
        text = json.dumps([VERSION, values], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def claim(folder: Path, settings: Settings, staging: Staging, replace: bool = False) -> None:
    """Record the settings in ``folder``, or find that they are those recorded there.

    With ``replace``, others are overwritten (and every file that was made with them is then made
    anew, as it carries their digest). Raises LibraryError for other settings, WriteError for a
    folder that cannot be written.
    """
    path = folder / RECORD
    record = {
        "format": FORMAT,
        "format_version": VERSION,
        "settings": settings.digest,
        **asdict(settings),
    }
    text = json.dumps(record, indent=2) + "\n"
    if path.exists() and not replace:
        try:
            before = json_files.read(path)
            if not isinstance(before, dict) or before.get("format") != FORMAT:
                raise json_files.JsonError(f"{path}: is not a record of `earvae library`")
        except json_files.JsonError as error:
            raise LibraryError(
                f"{error}; use another folder, or encode everything again with --replace"
            ) from None
        differing = [name for name, value in record.items() if before.get(name) != value]
        if not differing:
            return
        names = [name for name in differing if name not in ("settings", "format_version")]
        changes = ", ".join(f"{name} {before.get(name)} → {record[name]}" for name in names)
        raise LibraryError(
            f"{folder}: was encoded with other settings ({changes or 'another version'}); give "
            "those of before, use another folder, or encode it all again with --replace"
        )
    staging.write(path, text)
