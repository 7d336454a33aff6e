# title: Training on latents
# A library, its statistics, and batches of random crops of it, normalised and sampled.
earvae library music/ -o latents/ --store mean+std
earvae stats latents/ > /dev/null
cat checkout/tools/paths/03_dataset.py
python checkout/tools/paths/03_dataset.py
