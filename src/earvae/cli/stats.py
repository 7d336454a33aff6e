"""``earvae stats``: mean and standard deviation of latents by channel."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from earvae.cli import options
from earvae.cli.errors import finish, one_line, usage_error

if TYPE_CHECKING:
    from earvae import tracks
    from earvae.latents.statistics import Statistics


def stats(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="LATENTS...",
            show_default=False,
            help="Latent files, shards, folders of them, or statistics to merge.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to write. Default: latent_stats.json in the folder that is measured.",
        ),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(
            "--write",
            metavar="MODEL",
            help="Folder of the model that made the latents: latents_mean and latents_std go into "
            "its config.json.",
        ),
    ] = None,
    rank: options.RankNumber = None,
    world_size: options.WorldSize = None,
    as_json: options.Json = False,
) -> None:
    """Measure latents: mean and standard deviation of every channel.

    The result, latent_stats.json, is where diffusion code finds the numbers, and what
    `earvae library --normalise` and `earvae decode --denormalise` use. It holds `mean` and `std`
    (of the population, over all true frames: padding does not count), `count` in frames, the
    model's identity and, for latents with a `std` tensor, `sample_std`: the standard deviation
    that samples of the posterior have. One entry at a time is in memory.

    With --write they go into the model's configuration too, where EarVAE.from_pretrained finds
    them (vae.config.latents_mean, vae.config.latents_std); std is 1 where a channel never changes.

    Several ranks write latent_stats.rank-R-of-W.json each; merge these by measuring them.
    Latents that are normalised already are measured, but nothing is written.

    \b
    earvae stats latents/
    earvae stats latents/ --write my_model/
    earvae stats shards/ -o shards_stats.json
    torchrun --nproc-per-node 8 -m earvae stats latents/
    earvae stats latents/latent_stats.rank-*.json -o latents/latent_stats.json
    """
    from earvae import atomic, tracks
    from earvae.cli.batch import progress_bar
    from earvae.latents import file
    from earvae.latents.statistics import NAME, LatentsError, measure
    from earvae.library.ranks import find_rank

    target = output
    if target is None and len(inputs) == 1 and inputs[0].is_dir():
        target = inputs[0] / NAME
    own = find_rank(rank, world_size)
    if write is not None and own.world > 1:
        usage_error("--write needs the statistics of all latents: merge those of the ranks first")
    identity = None if write is None else options.load_model(str(write), None, None, "cpu").identity
    latents = tracks.find(inputs, suffixes=frozenset({file.SUFFIX, file.NPY, file.SHARD}))
    problems = latents.problems
    _refuse_targets(target, latents.files, output is None)
    paths = [Path(found.path) for found in latents.files][own.rank :: own.world]
    with progress_bar(len(paths), "measuring") as update:
        try:
            found, normalised = measure(paths, lambda files: update(advance=files), problems.append)
        except LatentsError:  # nothing is left
            if not problems:
                raise
    if problems:  # statistics of a part would pass for those of the whole
        typer.echo("nothing was written; mend these, or remove them, and measure again", err=True)
        finish(problems, 0)
    if target is not None and own.world > 1:
        target = target.with_name(f"{target.stem}.rank-{own}{target.suffix}")
    if target is not None and not normalised:
        atomic.write(target, found.to_json())
    if as_json:
        typer.echo(found.to_json(), nl=False)
    else:
        _table(found)
    if normalised:
        typer.echo("these latents are normalised; nothing was written")
    elif target is None:
        typer.echo("not written: say where with -o FILE", err=True)
    elif not as_json:
        typer.echo(f"written: {target}")
    if write is not None:
        _into_model(write, identity, found, normalised)


def _refuse_targets(target: Path | None, inputs: list[tracks.MusicFile], by_default: bool) -> None:
    """Leave with one line if what is written would replace an input, or, where nobody has named
    it, something that is no statistics."""
    from earvae import tracks
    from earvae.errors import EarvaeError
    from earvae.latents.statistics import read

    if target is None or not os.path.lexists(target):
        return
    if tracks.identity(target) in {tracks.identity(found.path) for found in inputs}:
        usage_error(f"{target}: is one of the inputs; choose another output")
    if by_default:
        try:
            read(target)
        except EarvaeError as error:
            one_line(f"{error}; it stays: say with -o FILE where statistics should go")


def _into_model(folder: Path, identity: str | None, found: Statistics, normalised: bool) -> None:
    """Write statistics into the configuration of the model in ``folder``, if they are of its
    latents; else leave with one line."""
    from earvae.model import saved

    if normalised:
        one_line(f"{folder}: these latents are normalised already; measure those of before")
    if found.model != identity:
        one_line(
            f"{folder}: is model {identity}, but these latents are of model {found.model}; nothing "
            "was written"
        )
    saved.write_statistics(folder, found.mean.tolist(), found.scale.tolist())
    typer.echo(f"written: {folder / saved.CONFIG_NAME}", err=True)


def _table(found) -> None:
    from earvae.cli.batch import print_rows

    rows = [
        [str(channel), f"{mean:.4f}", f"{std:.4f}"]
        for channel, (mean, std) in enumerate(zip(found.mean, found.moments.std, strict=True))
    ]
    counts = f"{found.entries} entries, {found.moments.count} frames"
    print_rows(
        ["channel", "mean", "std"], rows, f"{counts}, {found.latents} of model {found.model}"
    )
