"""A model under the interfaces of other programs: diffusers, stable-audio-tools.

None of them needs the other package to be installed. docs/integrations.md shows each at work, and
the nodes for ComfyUI, which lie in ``integrations/comfyui/`` of the repository.
"""
