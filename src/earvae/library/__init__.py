"""Encoding a music library: many files to latents, resumable, over several processes.

``items`` lists the files and fixes their order; ``plan`` groups them into batches, by that order
and their lengths alone; ``load`` decodes ahead of the model; ``store`` writes and recognises what
is done; ``run`` ties these together; ``statistics`` measures latents and normalises them.
"""
