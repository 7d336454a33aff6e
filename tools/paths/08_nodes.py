"""Import a folder of custom nodes as ComfyUI does, and name them."""

import importlib.util
import sys

folder = sys.argv[1]
spec = importlib.util.spec_from_file_location(
    "pack", f"{folder}/__init__.py", submodule_search_locations=[folder]
)
pack = importlib.util.module_from_spec(spec)
sys.modules["pack"] = pack
spec.loader.exec_module(pack)
print(*pack.NODE_DISPLAY_NAME_MAPPINGS.values(), sep="\n")
