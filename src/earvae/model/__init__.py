"""The models: the published architecture and the compact one, behind one class."""
