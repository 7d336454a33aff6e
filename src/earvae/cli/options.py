"""Options that several verbs share, and what they turn into."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from earvae.cli.errors import one_line, usage_error

if TYPE_CHECKING:
    from earvae.audio import OutputFormat
    from earvae.engine import InferenceVAE
    from earvae.model.vae import EarVAE

_INPUTS = typer.Argument(
    metavar="IN...",
    show_default=False,
    help="Files, manifests (.jsonl), or folders to search. -: standard input.",
)
Inputs = Annotated[list[Path], _INPUTS]
OptionalInputs = Annotated[list[Path] | None, _INPUTS]
_OUTPUT = typer.Option(
    "--output",
    "-o",
    metavar="OUT",
    help="A file where IN is one file, else a folder; a folder too where it ends in a slash. "
    "-: standard output. Existing files are replaced.",
)
Output = Annotated[str, _OUTPUT]  # a Path would lose the slash at the end
OptionalOutput = Annotated[str | None, _OUTPUT]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        "--model",
        "--model_path",
        help="ear-vae-44k, ear-vae-48k or ear-vae2 (the authors' weights, fetched from the hub); a "
        "folder of ours or of a training run, a published weight file, or "
        "hub:owner/name/FILE@revision. "
        "Default: the model that comes with earvae.",
    ),
]
PublishedConfig = Annotated[
    Path | None,
    typer.Option("--config", help="JSON config of a published weight file, if not beside it."),
]
SampleRate = Annotated[
    int | None,
    typer.Option(
        "--sample-rate", min=1, help="Hz; for published weights that do not tell their rate."
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device", help="auto, cpu, cuda, cuda:1, mps. auto: a GPU, NVIDIA's or Apple's, if any."
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        help="auto, plain, exact or fast. auto: equal to plain within rounding, about three times "
        "as fast for the paper's architecture on a CPU. fast: products in bfloat16 where the "
        "device has it, differs by about -40 dB of the signal.",
    ),
]
ChunkSeconds = Annotated[
    float,
    typer.Option(
        "--chunk-seconds",
        min=0.1,
        help="Audio computed at a time. Less needs less memory; the result is the same.",
    ),
]
Sample = Annotated[
    bool,
    typer.Option("--sample", help="Draw the latents from the posterior instead of its mean."),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        min=0,
        max=2**63 - 1,
        help="Of --sample, for every file alike. Default: a new one, reported.",
    ),
]
Half = Annotated[bool, typer.Option("--half", help="Store float16 latents.")]
RankNumber = Annotated[
    int | None, typer.Option("--rank", help="This process, from 0. Default: torchrun, SLURM.")
]
WorldSize = Annotated[
    int | None, typer.Option("--world-size", help="Processes in all, each with its --rank.")
]
Downmix = Annotated[
    bool,
    typer.Option("--downmix", help="Fold 3 to 8 channels to stereo (ITU-R BS.775)."),
]
Suffix = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="Of files in an output folder, or of -o -: wav, flac, aiff, w64, rf64 or caf. "
        "Default: wav.",
    ),
]
Subtype = Annotated[
    str | None,
    typer.Option(
        "--subtype", help="float, pcm_16, pcm_24 or pcm_32. Default: float; pcm_24 in FLAC."
    ),
]
Clip = Annotated[
    Literal["none", "clamp", "rescale"] | None,
    typer.Option(
        "--clip",
        help="Peaks beyond full scale: none (left alone; integer files refuse them), clamp, or "
        "rescale (one gain for the whole file, where it is needed). Default: rescale in integer "
        "files such as FLAC, which cannot hold them; none in others.",
    ),
]
Stereo = Annotated[
    bool, typer.Option("--stereo", help="Write mono inputs as stereo instead of mono.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the figures as JSON instead of a table.")]


def seed_of(sample: bool, seed: int | None) -> int | None:
    """The seed of the draw, or None for the posterior mean."""
    if seed is not None and not sample:
        usage_error("--seed belongs to --sample; add --sample or leave out --seed")
    if sample and seed is None:
        return secrets.randbits(31)
    return seed


def output_format(
    output: str | None, one_file: bool, wanted: str | None, subtype: str | None, clip: Clip
) -> tuple[str, OutputFormat]:
    """What output files end in, dot included, as the file OUT does or as --format says; and how
    they are written. Options that do not go together are a usage error."""
    from earvae import audio

    suffix = "." + (wanted or "wav").lower().lstrip(".")
    if output is not None and one_file and output != "-":
        suffix = Path(output).suffix
        if wanted is not None:
            usage_error(f"{output}: is a file, and --format {wanted} is for folders; leave it out")
        if not suffix:
            usage_error(f"{output}: has no suffix; name a file such as out.wav, or end a folder "
                        "with a slash")  # fmt: skip
    try:
        return suffix, audio.output_format(suffix, subtype and subtype.lower(), clip)
    except audio.OutputFormatError as error:
        usage_error(str(error))


def load_model(
    weights: str | None, config: Path | None, sample_rate: int | None, device: str
) -> EarVAE:
    """The model on its device. Raises WeightsError."""
    from earvae.model.vae import EarVAE

    if config is not None and weights is None:
        usage_error("--config describes a published weight file; name that with --weights")
    device = device_of(device)
    return EarVAE.from_pretrained(weights, sample_rate, config).to(device)


def inference_model(
    weights: str | None, config: Path | None, sample_rate: int | None, device: str, engine: str
) -> InferenceVAE:
    """The model behind --engine; an engine that is not there is a usage error."""
    from earvae.engine import EngineError, accelerate

    vae = load_model(weights, config, sample_rate, device)
    try:
        return accelerate(vae, engine)
    except EngineError as error:
        usage_error(f"--{error}")


def device_of(device: str) -> str:
    """The device that --device names; one that is not there is one line and status 1.

    With auto, each process of a machine takes a GPU of its own, or Apple's, which they share.
    """
    import torch

    from earvae.library.ranks import local_rank

    if device == "auto":
        count = torch.cuda.device_count()
        other = "mps" if torch.backends.mps.is_available() else "cpu"
        device = f"cuda:{local_rank() % count}" if count else other
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        one_line(f"--device {device}: {str(error).strip().splitlines()[0]}")
    return device


def chunk_frames(vae: EarVAE, seconds: float) -> int:
    """Latent frames in a chunk of ``seconds``."""
    return max(1, round(seconds * vae.sample_rate / vae.hop_length))
