"""A half model, and a padded batch of two lengths beside the single signal."""

from earvae import EarVAE, codec
from earvae.audio import read_audio

vae = EarVAE.from_pretrained().half()
song = read_audio("music/automat.flac", vae.sample_rate)[None, :, :100_000]
batch = song.repeat(2, 1, 1)
posterior = codec.encode(vae, batch, lengths=[100_000, 70_000])
decoded = codec.decode(vae, posterior.latent_dist.mode(), [100_000, 70_000])
alone = codec.reconstruct(vae, song[..., :70_000])
print(decoded.dtype, decoded.shape, (decoded[1:, :, :70_000] - alone).abs().max().item())
