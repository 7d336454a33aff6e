# title: A first sound
# A song there and back through the model that comes with the package.
earvae reconstruct music/automat.flac -o out.wav
earvae info out.wav

# A folder, and what a model is:
earvae reconstruct music/ -o music_vae/ --format flac
earvae info
