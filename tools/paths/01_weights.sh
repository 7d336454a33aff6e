# title: The authors' weights
# extras: none
# The commands below are those that fetch the published weights from the Hugging Face hub. This log
# is of a machine without a network, so each stands behind a stand-in for the hub, which serves
# small models of the published names and layouts with random weights (so what they make is noise);
# leave out what stands before `earvae`.
mkdir -p hub/earlab/EAR_VAE
python -c "import torch, safetensors.torch as s; g = 'checkout/tests/golden/tiny'; \
[torch.save(s.load_file(f'{g}{a}_state_dict.safetensors'), f'hub/earlab/EAR_VAE/{b}.pyt') \
for a, b in (('44k', 'ear_vae_44k'), ('48k_v2', 'ear_vae_v2_48k'))]"

# One name gets the weights, the first time from the hub, then from its client's cache:
python checkout/tools/stand_in_hub.py hub earvae reconstruct \
    music/automat.flac -o out.wav --weights ear-vae-44k
python checkout/tools/stand_in_hub.py hub earvae info ear-vae-48k

# A repository with several files says how to name one, a revision can be pinned, and what was
# fetched needs no network any more:
python checkout/tools/stand_in_hub.py hub earvae info earlab/EAR_VAE  # status 1
python checkout/tools/stand_in_hub.py hub earvae encode music/ -o latents/ \
    --weights hub:earlab/EAR_VAE/ear_vae_44k.pyt@main
HF_ENDPOINT=http://127.0.0.1:9 HF_HUB_CACHE=hub_cache earvae info ear-vae-44k --json

# In Python:
python checkout/tools/stand_in_hub.py hub python -c "from earvae import EarVAE; \
print(EarVAE.from_pretrained('ear-vae-48k').sample_rate)"

# What can go wrong ends in one line that says what to do:
rm -r hub_cache
python checkout/tools/stand_in_hub.py --fault gated hub earvae info ear-vae-44k  # status 1
python checkout/tools/stand_in_hub.py --fault wrong_bytes hub earvae info ear-vae-44k  # status 1
python checkout/tools/stand_in_hub.py hub earvae info ear-vae-44k@unknown  # status 1
HF_ENDPOINT=http://127.0.0.1:9 HF_HUB_CACHE=hub_cache earvae info ear-vae-44k  # status 1
