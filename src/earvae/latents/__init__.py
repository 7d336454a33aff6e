"""Latents on disk: their file format (``file``), and their statistics and normalisation
(``statistics``)."""
