"""Five nodes: load a model, encode audio, decode latents, save and load latents.

Audio and latents are ComfyUI's own types, so that every other node takes them: ``AUDIO`` is
``{"waveform": [batch, channels, samples], "sample_rate": Hz}``, ``LATENT`` is ``{"samples": [batch,
channels, frames], "type": "audio"}``. Latents of this pack also carry ``earvae``: the model's
identity and the audio's rate and length, which decoding restores. Audio of any length is computed
in exact chunks.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from earvae import EarVAE, codec
from earvae.audio import resample
from earvae.latents import file
from earvae.latents.metadata import Metadata

CATEGORY = "audio/εar-VAE"


def device() -> torch.device:
    """ComfyUI's device; the CPU outside it."""
    try:
        from comfy.model_management import get_torch_device
    except ImportError:
        return torch.device("cpu")
    return get_torch_device()


def resampled(audio: Tensor, source_rate: int, target_rate: int, samples: int | None) -> Tensor:
    """``[batch, channels, n]`` at another rate; of exactly ``samples`` samples, unless None."""
    rows = [
        np.concatenate(list(resample([row.numpy()], source_rate, target_rate, samples)), axis=1)
        for row in audio
    ]
    return torch.from_numpy(np.stack(rows))


def stereo(audio: Tensor) -> Tensor:
    """``[batch, 2, n]`` float32 on the CPU; mono is duplicated. Raises ValueError for others."""
    if audio.ndim != 3 or audio.shape[1] not in (1, 2):
        raise ValueError(
            f"εar-VAE takes mono and stereo, [batch, 1 or 2, samples], got {list(audio.shape)}"
        )
    return audio.detach().float().cpu().expand(-1, 2, -1).contiguous()


class LoadEarVAE:
    """A model, on ComfyUI's device."""

    CATEGORY, FUNCTION, RETURN_TYPES, RETURN_NAMES = CATEGORY, "load", ("EARVAE",), ("model",)
    DESCRIPTION = "The model that comes with earvae, or another one."

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        tip = (
            "Nothing: the model that comes with earvae. Or a folder or file of weights, a known "
            "name (ear-vae-44k, ear-vae-48k, ear-vae2), or owner/name of the Hugging Face hub."
        )
        return {"required": {"weights": ("STRING", {"default": "", "tooltip": tip})}}

    def load(self, weights: str) -> tuple[EarVAE]:
        vae = EarVAE.from_pretrained(weights.strip() or None)
        return (vae.requires_grad_(False).to(device()),)


class EncodeEarVAE:
    """Audio to latents: the posterior's mean, or a draw from it."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "encode", ("LATENT",)
    DESCRIPTION = "Audio of any rate and length to latents. With sample: a draw, by the seed."

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "model": ("EARVAE",),
                "audio": ("AUDIO",),
                "sample": ("BOOLEAN", {"default": False}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**63 - 1}),
            }
        }

    def encode(self, model: EarVAE, audio: dict, sample: bool, seed: int) -> tuple[dict]:
        sound, rate = stereo(audio["waveform"]), int(audio["sample_rate"])
        ours = resampled(sound, rate, model.sample_rate, None)
        posterior = codec.encode(model, ours)
        latents = posterior.mode()
        if sample:
            latents = posterior.sample(torch.Generator().manual_seed(seed))
        about = {
            "model": model.identity,
            "sample_rate": model.sample_rate,
            "hop_length": model.hop_length,
            "samples": ours.shape[2],
            "original_rate": rate,
            "original_samples": sound.shape[2],
            "channels": audio["waveform"].shape[1],
            "seed": seed if sample else None,
        }
        return ({"samples": latents.float(), "type": "audio", "earvae": about},)


class DecodeEarVAE:
    """Latents to audio: of the rate and length that was encoded, or, for generated latents, all
    that they hold at the model's rate."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "decode", ("AUDIO",)
    DESCRIPTION = (
        "Latents to audio. With denormalise, for what a diffusion model made of normalised "
        "latents: times the model's latents_std, plus its latents_mean."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "model": ("EARVAE",),
                "latent": ("LATENT",),
                "denormalise": ("BOOLEAN", {"default": False}),
            }
        }

    def decode(self, model: EarVAE, latent: dict, denormalise: bool) -> tuple[dict]:
        latents, about = latent["samples"].detach().float().cpu(), latent.get("earvae")
        if about and about["model"] != model.identity:
            raise ValueError(
                f"these latents are of model {about['model']}, the one loaded is {model.identity}"
            )
        if denormalise:
            config = model.config
            if config.latents_mean is None or config.latents_std is None:
                raise ValueError(
                    "this model has no latents_mean and latents_std; `earvae stats LATENTS --write "
                    "MODEL` puts them there"
                )
            mean, std = (
                torch.tensor(v)[:, None] for v in (config.latents_mean, config.latents_std)
            )
            latents = latents * std + mean
        whole = latents.shape[2] * model.hop_length - model.decoder.tail_deficit
        fits = about and codec.frames_for(model, about["samples"]) == latents.shape[2]
        samples = about["samples"] if fits else whole
        audio, rate = codec.decode(model, latents, samples).float(), model.sample_rate
        if fits:
            if about["channels"] == 1:
                audio = audio.mean(dim=1, keepdim=True)
            rate = about["original_rate"]
            audio = resampled(audio, model.sample_rate, rate, about["original_samples"])
        return ({"waveform": audio, "sample_rate": rate},)


class SaveEarVAELatents:
    """Latents as the files that ``earvae encode`` writes and ``earvae decode`` reads."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = CATEGORY, "save", (), True
    DESCRIPTION = "One .safetensors for each of the batch, in ComfyUI's output folder."

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        prefix = ("STRING", {"default": "latents/earvae"})
        return {
            "required": {"model": ("EARVAE",), "latent": ("LATENT",), "filename_prefix": prefix}
        }

    def save(self, model: EarVAE, latent: dict, filename_prefix: str) -> dict:
        import folder_paths  # ComfyUI's

        latents, about = latent["samples"].detach().float().cpu(), latent.get("earvae")
        frames = latents.shape[2]
        if not about or codec.frames_for(model, about["samples"]) != frames:  # generated, or cut
            samples = frames * model.hop_length - model.decoder.tail_deficit
            about = {
                "model": model.identity, "sample_rate": model.sample_rate,
                "hop_length": model.hop_length, "samples": samples, "channels": 2,
                "original_rate": model.sample_rate, "original_samples": samples, "seed": None,
            }  # fmt: skip
        kind = "mean" if about["seed"] is None else "sample"
        folder, name, counter, *_ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        for number, values in enumerate(latents.numpy(), counter):
            path = Path(folder) / f"{name}_{number:05}_{file.SUFFIX}"
            file.write(path, file.Latents(Metadata(latents=kind, frames=frames, **about), values))
        return {"ui": {}}


class LoadEarVAELatents:
    """Latents from a file of ``earvae encode``, ``earvae library`` or the node that saves them."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "load", ("LATENT",)
    DESCRIPTION = "A .safetensors or .npy of latents; a name is taken in ComfyUI's input folder."

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"path": ("STRING", {"default": ""})}}

    @classmethod
    def IS_CHANGED(cls, path: str) -> float:
        """ComfyUI runs the node again where this changes."""
        place = cls.place(path)
        return os.stat(place).st_mtime if place.is_file() else math.nan

    @staticmethod
    def place(path: str) -> Path:
        """The file that ``path`` names: as it stands, or in ComfyUI's input folder."""
        if Path(path).is_absolute():
            return Path(path)
        import folder_paths

        return Path(folder_paths.get_input_directory()) / path

    def load(self, path: str) -> tuple[dict]:
        found = file.read(self.place(path))
        own = found.metadata
        names = (
            "model", "sample_rate", "hop_length", "samples", "original_rate", "original_samples",
            "channels", "seed",
        )  # fmt: skip
        latent = {
            "samples": torch.from_numpy(found.values.astype(np.float32))[None],
            "type": "audio",
        }
        if own.normalised is None:  # else they only mean something after their statistics
            latent["earvae"] = {name: getattr(own, name) for name in names}
        return (latent,)


NODE_CLASS_MAPPINGS = {
    "EarVAELoad": LoadEarVAE,
    "EarVAEEncode": EncodeEarVAE,
    "EarVAEDecode": DecodeEarVAE,
    "EarVAESaveLatents": SaveEarVAELatents,
    "EarVAELoadLatents": LoadEarVAELatents,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "EarVAELoad": "Load εar-VAE",
    "EarVAEEncode": "Encode audio (εar-VAE)",
    "EarVAEDecode": "Decode latents (εar-VAE)",
    "EarVAESaveLatents": "Save latents (εar-VAE)",
    "EarVAELoadLatents": "Load latents (εar-VAE)",
}
