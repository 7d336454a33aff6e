"""Encoding a music library: many files to latents, resumable, over several processes.

``items`` names the outputs of the files that were found; ``plan`` groups files into batches, by
their order and lengths alone; ``reader`` reads them and ``prefetch`` does so ahead of the model;
``entries`` are what is stored of a file; ``store`` writes them and recognises what is done;
``encode`` ties these together for one of several ``ranks``, by ``settings``.
"""
