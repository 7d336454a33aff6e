"""εar-VAE: encode, decode, load and save. One class for every architecture."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earvae.config import ModelConfig
from earvae.model import hub, pretrained, saved
from earvae.model.layers import check_signal
from earvae.model.parts import Parts, build, draws_noise
from earvae.model.posterior import Posterior


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

    @property
    def device(self) -> torch.device:
        """Where the parameters are; audio and latents must be there too."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What latents and audio come out in, after ``half()`` or ``double()`` another one than
        float32. Transforms, levels and activations are float32 at least in any case."""
        return next(self.parameters()).dtype

    def encode(self, audio: Tensor) -> Posterior:
        """Posterior of ``[batch, 2, samples]`` audio, ``⌈samples / hop_length⌉`` frames.

        Audio that is not a whole number of frames is padded with zeros at its end; of a padded
        batch ``codec.encode`` takes the lengths. Raises
        ValueError for another shape, for integers, for no samples at all and, in evaluation mode,
        for values that are not finite.
        """
        self.check_audio(audio)
        audio = F.pad(audio, (0, -audio.shape[2] % self.hop_length))
        return Posterior(self.encoder(audio), self.config.std_floor)

    def decode(self, latents: Tensor, first_frame: int | Tensor = 0) -> Tensor:
        """Audio ``[batch, 2, frames·hop_length]`` of ``[batch, latent, frames]`` latents.

        ``first_frame`` is where they begin in their file, which a decoder that adds noise goes by
        (``model/texture.py``): one number, or int64 ``[batch]``.

        With odd strides (the 48 kHz variant) the published decoder stops ``tail_deficit``
        samples short; those samples are zeros here. ``codec.py`` encodes far enough beyond the
        end that they fall outside a file. Raises ValueError as :meth:`encode`.
        """
        self.check_latents(latents)
        if self.transformers is not None:
            latents = self.transformers(latents)
        at_frame = (first_frame,) if draws_noise(self.decoder) else ()
        return F.pad(self.decoder(latents, *at_frame), (0, self.decoder.tail_deficit))

    def forward(
        self,
        audio: Tensor,
        noise: Tensor | None = None,
        first_frame: int | Tensor = 0,
        surprise: bool = False,
    ) -> tuple[Tensor, Posterior] | tuple[Tensor, Posterior, Tensor]:
        """Reconstruction ``[batch, 2, samples]`` and posterior: what training needs.

        ``noise`` (standard normal, ``[batch, latent, frames]``) draws the latents from the
        posterior; without it they are its mean. ``first_frame`` is that of :meth:`decode`. With
        ``surprise``, and a decoder that has one, its negative log likelihood of ``audio``, whole
        frames, comes third: a scalar (``model/likelihood.py``).
        """
        posterior = self.encode(audio)
        latents = posterior.mode() if noise is None else posterior.at(noise)
        if surprise:
            drawn, nll = self.decoder(latents, first_frame, audio)
            return drawn, posterior, nll
        return self.decode(latents, first_frame)[..., : audio.shape[2]], posterior

    def check_audio(self, audio: Tensor) -> None:
        """Raise ValueError for what :meth:`encode` cannot encode."""
        check_signal(audio, "audio", self.config.audio_channels, "samples", not self.training)

    def check_latents(self, latents: Tensor) -> None:
        """Raise ValueError for what :meth:`decode` cannot decode."""
        check_signal(latents, "latents", self.latent_channels, "frames", not self.training)

    @property
    def identity(self) -> str:
        """Twelve hex digits of a SHA-256 over configuration and weights.

        Latents only mean something to the model that made them; files carry this. The statistics
        of latents in a configuration do not count.
        """
        config = self.config.without_statistics()
        digest = hashlib.sha256(config.model_dump_json().encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]

    # ------------------------------------------------------------------ files

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write ``config.json`` and ``model.safetensors`` into ``folder``.

        ``dtype`` converts the parameters (torch.float16 halves the file), and buffers, which are
        statistics and constants, where that loses nothing. Raises WriteError, also for values that
        are not finite in that type.
        """
        saved.write(self, self.config, folder, dtype)

    def push_to_hub(
        self,
        repository: str,
        token: str | bool | None = None,
        private: bool = False,
        dtype: torch.dtype | None = None,
    ) -> str:
        """Save into a repository ``owner/name`` of the Hugging Face hub, made if it is not there.

        ``token``: None is what the user logged in with. Returns the address of the commit. Raises
        WriteError.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, dtype)
            return hub.upload(Path(folder), repository, token, private)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        sample_rate: int | None = None,
        config: str | Path | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> EarVAE:
        """A model in evaluation mode, on the CPU, in float32.

        Args:
            source: one of
                a folder written by :meth:`save_pretrained`;
                a published weight file (``.pyt``, ``.pt``, ``.safetensors``, …), its JSON
                config beside it or not;
                a folder that holds one weight file, with or without its JSON;
                a folder of diffusers' AutoencoderOobleck, or a pipeline with it as ``vae``;
                the folder of a training run, for its averaged weights;
                ``ear-vae-44k``, ``ear-vae-48k`` or ``ear-vae2``, which the authors published;
                ``owner/name`` or ``hub:owner/name/file`` of the Hugging Face hub, both also with
                ``@revision``;
                None: the model that comes with the package.
            sample_rate: Hz, for published weights whose rate is not known from their stride.
            config: the JSON config of a published weight file, if it is not beside it.
            revision: branch, tag or commit, of what is on the hub.
            token: for the hub; None is what the user logged in with, False is none.

        Raises WeightsError: nothing loadable there, or not a whole model.
        """
        found, state = pretrained.load(source, config, sample_rate, revision, token)
        vae = cls(found)
        pretrained.fill(vae, state, "the shipped model" if source is None else source)
        return vae.eval()
