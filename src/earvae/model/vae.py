"""εar-VAE: encode, decode, load and save. One class for every architecture."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from earvae import config as configs
from earvae.config import ModelConfig
from earvae.model.diffusers import is_diffusers_folder, load_diffusers
from earvae.model.parts import Parts, build
from earvae.model.posterior import Posterior
from earvae.model.published import (
    PublishedFormatError,
    deduplicated,
    is_published_config,
    load_published,
)

SHIPPED = Path(__file__).parent / "weights"
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
WEIGHT_SUFFIXES = (".pyt", ".pt", ".pth", ".bin", ".ckpt", ".safetensors")


class ModelSourceError(ValueError):
    """A model source that cannot be loaded; the message says which and what to do."""


class EarVAE(nn.Module):
    """The variational autoencoder of *Back to Ear*: stereo audio to latents and back.

    Audio is float ``[batch, 2, samples]`` at ``sample_rate`` Hz, nominal full scale ±1 (decoded
    audio may overshoot it). Latents are ``[batch, 64, frames]``, one frame per ``hop_length``
    samples.

    The three parts, ``encoder``, ``transformers`` and ``decoder`` (:class:`Parts`), can be called
    by themselves; ``codec.py`` does, to work in chunks.

    Args:
        config: the architecture with its sizes.
        parts: networks to use in place of new ones with random weights, such as an engine's.
    """

    def __init__(self, config: ModelConfig, parts: Parts | None = None) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.transformers, self.decoder = parts or build(config)

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.config.sample_rate

    @property
    def hop_length(self) -> int:
        """Samples per latent frame."""
        return self.config.hop_length

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.config.latent_channels

    def encode(self, audio: Tensor) -> Posterior:
        """Posterior of ``[batch, 2, samples]`` audio, ``⌈samples / hop_length⌉`` frames.

        Audio that is not a whole number of frames is padded with zeros at its end. Raises
        ValueError for another shape or for no samples at all.
        """
        if audio.ndim != 3 or audio.shape[1] != self.config.audio_channels:
            raise ValueError(
                f"audio must be [batch, {self.config.audio_channels}, samples], "
                f"got {list(audio.shape)}"
            )
        if audio.shape[2] == 0:
            raise ValueError("audio holds no samples")
        audio = F.pad(audio, (0, -audio.shape[2] % self.hop_length))
        return Posterior(self.encoder(audio), self.config.std_floor)

    def decode(self, latents: Tensor) -> Tensor:
        """Audio ``[batch, 2, frames·hop_length]`` of ``[batch, latent, frames]`` latents.

        With odd strides (the 48 kHz variant) the published decoder stops ``tail_deficit``
        samples short; those samples are zeros here. ``codec.py`` encodes far enough beyond the
        end that they fall outside a file.
        """
        if latents.ndim != 3 or latents.shape[1] != self.latent_channels:
            raise ValueError(
                f"latents must be [batch, {self.latent_channels}, frames], "
                f"got {list(latents.shape)}"
            )
        if self.transformers is not None:
            latents = self.transformers(latents)
        return F.pad(self.decoder(latents), (0, self.decoder.tail_deficit))

    def forward(self, audio: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Posterior]:
        """Reconstruction ``[batch, 2, samples]`` and posterior: what training needs.

        ``noise`` (standard normal, ``[batch, latent, frames]``) draws the latents from the
        posterior; without it they are its mean.
        """
        posterior = self.encode(audio)
        latents = posterior.mode() if noise is None else posterior.at(noise)
        return self.decode(latents)[..., : audio.shape[2]], posterior

    @property
    def identity(self) -> str:
        """Twelve hex digits of a SHA-256 over configuration and weights.

        Latents only mean something to the model that made them; files carry this.
        """
        digest = hashlib.sha256(self.config.model_dump_json().encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]

    # ------------------------------------------------------------------ files

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write ``config.json`` and ``model.safetensors`` into ``folder``.

        ``dtype`` converts the parameters (torch.float16 halves the file), and buffers, which are
        statistics and constants, where that loses nothing. Each file is written under a temporary
        name and renamed.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        parameters = {name for name, _ in self.named_parameters(remove_duplicate=False)}
        tensors = {}
        for name, tensor in deduplicated(self.state_dict()).items():
            tensor = tensor.detach().cpu()
            converted = tensor.to(dtype or tensor.dtype)
            exact = name in parameters or torch.equal(converted.to(tensor.dtype), tensor)
            tensors[name] = (converted if exact else tensor).contiguous()
        text = json.dumps(self.config.model_dump(mode="json"), indent=2) + "\n"
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as temporary:
            save_file(tensors, Path(temporary) / WEIGHTS_NAME, {"format": "earvae"})
            (Path(temporary) / CONFIG_NAME).write_text(text, encoding="utf-8")
            for name in (WEIGHTS_NAME, CONFIG_NAME):
                (Path(temporary) / name).chmod(0o644)
                os.replace(Path(temporary) / name, folder / name)

    @classmethod
    def from_pretrained(
        cls, source: str | Path | None = None, sample_rate: int | None = None
    ) -> EarVAE:
        """A model in evaluation mode, on the CPU, in float32.

        Args:
            source: one of
                a folder written by :meth:`save_pretrained`;
                a published weight file (``.pyt``, ``.pt``, ``.safetensors``, …), its JSON
                config beside it or not;
                a folder that holds one weight file, with or without its JSON;
                a folder of diffusers' AutoencoderOobleck, or a pipeline with it as ``vae``;
                a Hugging Face hub id such as ``owner/name``;
                None: the model that comes with the package.
            sample_rate: Hz, for published weights whose rate is not known from their stride.

        Raises:
            ModelSourceError: nothing loadable there.
            PublishedFormatError: a weight file that is not a whole εar-VAE.
        """
        if source is None:
            return cls._from_folder(SHIPPED, sample_rate)
        path = Path(source).expanduser()
        if path.is_dir():
            return cls._from_folder(path, sample_rate)
        if path.is_file():
            return cls.from_published(path, _config_beside(path), sample_rate)
        if _looks_like_hub_id(str(source)):
            return cls._from_folder(_download(str(source)), sample_rate)
        raise ModelSourceError(
            f"{source}: no such file or folder, and not a hub id of the form owner/name"
        )

    @classmethod
    def _from_folder(cls, folder: Path, sample_rate: int | None) -> EarVAE:
        ours = folder / CONFIG_NAME
        if ours.is_file() and "architecture" in _json(ours):
            if not (folder / WEIGHTS_NAME).is_file():
                raise ModelSourceError(f"{folder}: has {CONFIG_NAME} but no {WEIGHTS_NAME}")
            config = configs.parse(ModelConfig, _json(ours), str(ours))
            if sample_rate not in (None, config.sample_rate):
                raise ModelSourceError(
                    f"{ours}: says {config.sample_rate} Hz, but {sample_rate} Hz was asked for"
                )
            return cls(config)._load(load_file(folder / WEIGHTS_NAME), folder / WEIGHTS_NAME)
        for candidate in (folder, folder / "vae"):
            if is_diffusers_folder(candidate):
                config, state = load_diffusers(candidate, sample_rate)
                return cls(config)._load(state, candidate)
        weights = sorted(p for p in folder.iterdir() if p.suffix in WEIGHT_SUFFIXES)
        if len(weights) != 1:
            found = ", ".join(p.name for p in weights[:4]) or "none"
            raise ModelSourceError(
                f"{folder}: needs {CONFIG_NAME} + {WEIGHTS_NAME}, or exactly one published weight "
                f"file (found: {found}); name the file to use"
            )
        return cls.from_published(weights[0], _config_beside(weights[0]), sample_rate)

    @classmethod
    def from_published(
        cls, path: Path, config: Path | None = None, sample_rate: int | None = None
    ) -> EarVAE:
        """A published weight file with the JSON ``config`` named, or with none at all.

        Raises PublishedFormatError, or OSError for a file that is not there.
        """
        model_config, state = load_published(path, config, sample_rate)
        return cls(model_config)._load(state, path)

    def _load(self, state: dict[str, Tensor], source: Path) -> EarVAE:
        """Take weights over, in float32; refuse a state that lacks or adds names."""
        own = self.state_dict()
        aliases = own.keys() - deduplicated(own).keys()  # one tensor under a second name
        since = {"decoder.makeup"}  # 1 in compact models from before it
        missing = sorted(own.keys() - aliases - state.keys() - since)
        unexpected = sorted(state.keys() - own.keys())
        if "encoder.code.subspace" in missing and "encoder.code.basis" in state:
            raise PublishedFormatError(
                f"{source}: a compact model from before its linear code had classes; decode its "
                "latents with the earvae that it came with, and train or encode anew with this one"
            )
        if missing or unexpected:
            raise PublishedFormatError(
                f"{source}: not the weights of this configuration: {len(missing)} missing "
                f"({', '.join(missing[:3]) or '-'}), {len(unexpected)} unexpected "
                f"({', '.join(unexpected[:3]) or '-'})"
            )
        for name, tensor in state.items():
            if own[name].shape != tensor.shape:
                raise PublishedFormatError(
                    f"{source}: {name} has shape {list(tensor.shape)}, expected "
                    f"{list(own[name].shape)}"
                )
            own[name].copy_(tensor)
        return self.eval()


def _json(path: Path) -> dict:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelSourceError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(values, dict):
        raise ModelSourceError(f"{path}: expected a JSON object")
    return values


def _config_beside(weights: Path) -> Path | None:
    """The published JSON config next to a weight file: of the same name, or the only one."""
    if weights.with_suffix(".json").is_file():
        return weights.with_suffix(".json")
    candidates = sorted(weights.parent.glob("*.json"))
    usable = [path for path in candidates if is_published_config(_json(path))]
    return usable[0] if len(usable) == 1 else None


def _looks_like_hub_id(source: str) -> bool:
    parts = source.split("/")
    return len(parts) == 2 and all(parts) and not source.startswith((".", "~"))


def _download(hub_id: str) -> Path:
    """Fetch a hub repository's configs and weights into the local cache; its folder."""
    from huggingface_hub import snapshot_download  # slow to import; only needed here

    patterns = ["*.json", *(f"*{suffix}" for suffix in WEIGHT_SUFFIXES)]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns))
    except Exception as error:  # the hub client raises many kinds; the user needs one line
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelSourceError(
            f"{hub_id}: not a local path, and the hub download failed: {reason}"
        ) from error
