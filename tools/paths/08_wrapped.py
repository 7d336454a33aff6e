"""The shipped model under the interfaces of diffusers and of stable-audio-tools."""

import torch

from earvae import EarVAE
from earvae.adapters.diffusers import DiffusersVAE
from earvae.adapters.stable_audio import EarVAEPretransform

vae = DiffusersVAE(EarVAE.from_pretrained())
audio = 0.1 * torch.randn(1, 2, 44_100)
latents = vae.encode(audio).latent_dist.sample()
print(vae.config.sampling_rate, latents.shape, vae.decode(latents).sample.shape)

pretransform = EarVAEPretransform(EarVAE.from_pretrained(), normalise=True)
latents = pretransform.encode(audio)
print(pretransform.downsampling_ratio, latents.std().item(), pretransform.decode(latents).shape)
