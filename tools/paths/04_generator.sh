# title: A generator on top
# extras: eval
# Latents of a collection, here of three clips, and what normalises them:
earvae library music/ -o latents/
earvae stats latents/ | tail -n 3

# A few steps of a small transformer. (Real training takes tens of tracks, held-out music in the
# place of the second `latents/`, and no options: see the example's README.)
python checkout/examples/diffusion/train.py latents/ latents/ -o run --steps 20 --every 10 \
    --width 64 --depth 2 --heads 2 --batch 4 --frames 216

# Two samples, decoded:
python checkout/examples/diffusion/sample.py run latents/ -o heard/latents/generated --count 2
earvae decode heard/latents/generated -o heard/generated --denormalise latents/

# Real stretches and noise to compare with, and how far each is from the music:
python checkout/examples/diffusion/excerpts.py latents/ latents/ -o heard \
    --music music --count 3 \
    --frames 216
earvae decode heard/latents -o heard --denormalise latents/ | tail -n 3
python checkout/examples/diffusion/score.py heard/original \
    heard/decoded heard/generated heard/noise
