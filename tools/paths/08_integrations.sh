# title: In diffusers, stable-audio-tools and ComfyUI
# The shipped model under diffusers' names (nothing of diffusers is needed):
cat checkout/tools/paths/08_wrapped.py
python checkout/tools/paths/08_wrapped.py
# A model that AutoencoderOobleck cannot be is refused, and the wrapper named:
earvae export --diffusers out/  # status 1
# ComfyUI's nodes, from the folder that is dropped into custom_nodes/:
mkdir -p custom_nodes
cp -r checkout/integrations/comfyui custom_nodes/earvae
python checkout/tools/paths/08_nodes.py custom_nodes/earvae
