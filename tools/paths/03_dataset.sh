# title: Training on latents
# A library, its statistics, and batches of random crops of it, normalised and sampled.
earvae library music/ -o latents/ --store mean+std
earvae stats latents/ > /dev/null
cat src/tools/paths/03_dataset.py
python src/tools/paths/03_dataset.py
