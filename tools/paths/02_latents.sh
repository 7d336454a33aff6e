# title: Latents in and out
# A library in shards, with mean and std of every latent; what normalises them; what it holds.
earvae library music/ -o latents/ --shards --store mean+std
earvae stats latents/ -o latents/latent_stats.json > /dev/null
earvae info latents/
earvae info latents/shard-000000.tar

# Every layout decodes, and entries have the names of their tracks.
earvae decode latents/ -o heard/
earvae library music/ -o arrays/ --npy > /dev/null
earvae decode arrays/ -o heard_too/ > /dev/null
ls heard/ heard_too/

# A generator's output: mean 0 and spread 1, two of them in one tensor, and nothing else said.
python -c "import torch; torch.save(torch.randn(2, 64, 130), 'generated.pt')"
earvae info generated.pt
earvae decode generated.pt -o generated/ --denormalise latents/latent_stats.json \
    --samples 130000

# A file where there are two: one line says what to do.
earvae decode generated.pt -o generated.wav  # status 2
