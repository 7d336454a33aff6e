# title: Types, devices, batches, statistics
# Half precision, and a padded batch of two lengths, in Python:
cat checkout/tools/paths/05_batch.py
python checkout/tools/paths/05_batch.py
# The statistics of latents, in the configuration of the model:
python -c "from earvae import EarVAE; EarVAE.from_pretrained().save_pretrained('my_model')"
earvae library music/ -o latents/ --weights my_model
earvae stats latents/ --write my_model | tail -3
python -c "from earvae import EarVAE; \
print(EarVAE.from_pretrained('my_model').config.latents_std[:3])"
# The command line: also as a module, with a version, completed by the shell.
python -m earvae --version
python -m earvae --show-completion bash | tail -2
python -c "import earvae; print([name for name in dir(earvae) if not name.startswith('_')])"
