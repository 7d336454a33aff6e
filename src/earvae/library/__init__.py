"""Encoding a music library: many files to latents, resumable, over several processes.

``items`` names the outputs of the files that were found; ``plan`` groups files into batches, by
their order and lengths alone; ``parts`` are what is left to do of a block. ``reader`` reads them,
``prefetch`` does so ahead of the model, ``compute`` is the model's share; ``entries`` are what is
stored of a file, ``writer`` stores them and notes failures, ``store`` writes and recognises what is
done. ``encode`` ties these together for one of several ``ranks``, by ``settings``;
``distributed`` for a Ray ``cluster``, of which each worker has one of the ``stages``.
"""
