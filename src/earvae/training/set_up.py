"""What a run starts from: both networks and their optimisers, on the device, perhaps resumed."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import ModelParallelStrategy
from rich.console import Console
from rich.progress import track

from earvae import atomic
from earvae.config import CompactConfig, ConfigError, TrainConfig, parse
from earvae.discriminator import Discriminator
from earvae.model.compact import fit_linear_start
from earvae.model.oobleck import Stack
from earvae.model.spec_layers import Stream
from earvae.model.vae import EarVAE
from earvae.training import checkpoint
from earvae.training.checkpoint import CHECKPOINT
from earvae.training.crops import CropDataset
from earvae.training.fsdp import from_first_rank
from earvae.training.loader import make_batches
from earvae.training.optimisers import optimiser_of
from earvae.training.stages import trained
from earvae.training.state import State, refuse_other_config


def with_model(config: TrainConfig) -> TrainConfig:
    """The configuration with its model in it: where it leaves that to ``initial_weights``, theirs.

    Raises ConfigError if crops are not whole latent frames of that model, and what
    ``EarVAE.from_pretrained`` raises.
    """
    if config.model is not None:
        return config
    values = config.model_dump(exclude_unset=True) | {"model": _pretrained(config).config}
    return parse(TrainConfig, values, f"with the model of {config.initial_weights}")


def set_up(fabric: Fabric, config: TrainConfig, run_dir: Path) -> State:
    """Both networks, the averaged generator and optimisers on the device; resumed if a run is
    there.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    saved = checkpoint.read(run_dir)
    if saved is None:
        vae = from_first_rank(fabric, lambda first: initial_model(config, fit_start=first)).train()
    else:
        refuse_other_config(saved, config, run_dir / CHECKPOINT)
        vae = initial_model(config, fit_start=False).train()
    for stage in config.stages:
        trained(vae, stage)  # a name that the model has not is told now, not after days
    discriminator = initial_discriminator(config).train() if config.adversarial else None
    if fabric.is_global_zero:
        _introduce(config, run_dir, vae, discriminator)
    ema = copy.deepcopy(vae).eval().requires_grad_(False)
    module = fabric.setup_module(vae)
    if isinstance(fabric.strategy, ModelParallelStrategy):
        ema = fabric.setup_module(ema).module
    optimiser = fabric.setup_optimizers(optimiser_of(module, config.muon))
    state = State(vae, fabric.to_device(ema), optimiser, module=module)
    if discriminator is not None:
        state.discriminator = fabric.to_device(discriminator)
        if fabric.device.type == "cuda":  # what its convolutions of 32 channels are quick in
            discriminator.to(memory_format=torch.channels_last)
        state.discriminator_optimiser = optimiser_of(discriminator, config.discriminator_muon)
    if saved is not None:
        state.load(saved)
        fabric.print(f"going on after step {state.step}")
    set_recompute(vae, config.recompute)
    if config.compile:
        compile_networks(vae, discriminator)
    return state


def set_recompute(vae: EarVAE, recompute: bool) -> None:
    """Have what can do so compute its activations again in place of keeping them, or keep them."""
    for network in vae.modules():
        if isinstance(network, Stack | Stream):
            network.recompute = recompute


def compile_networks(vae: EarVAE, discriminator: Discriminator | None) -> None:
    """``torch.compile`` of the encoder, the decoder and every scale of the discriminator.

    Shapes are those of the training crops and nothing else, so each is compiled once, the
    discriminator's scales twice: as it learns, and as it teaches.
    """
    torch._dynamo.config.recompile_limit = 64  # all scales share the code that it counts for
    for part in (vae.encoder, vae.decoder):
        part.compile(dynamic=False)
    if discriminator is not None:
        discriminator.compile_scales()


def initial_model(config: TrainConfig, fit_start: bool = True) -> EarVAE:
    """The model a run starts from.

    A compact model from scratch first gets its start, fitted on training crops, unless
    ``config.linear_code_crops`` is 0 (``fit_start=False`` skips that where a checkpoint will bring
    it). It takes no more crops than the music holds side by side: more would be the same again.
    """
    torch.manual_seed(config.seed)
    if config.initial_weights is not None:
        vae = _pretrained(config)
        if config.model is not None and config.model.without_statistics() != vae.config:
            raise ConfigError(
                f"{config.initial_weights}: its model configuration is not the one under `model`"
            )
        return vae
    vae = EarVAE(config.model)
    if isinstance(config.model, CompactConfig) and fit_start and config.linear_code_crops:
        dataset = CropDataset(config.stages[0].data, config.model.sample_rate)
        held = sum(track.duration for track in dataset.tracks) * config.model.sample_rate
        crops = min(config.linear_code_crops, max(1, int(held / dataset.config.crop_samples)))
        batches = make_batches(dataset, 0, crops, torch.device("cpu"))
        print(f"fitting the linear start on {crops} crops", file=sys.stderr)
        total = -(-crops // dataset.config.batch_size)
        console = Console(stderr=True)
        shown = track(batches, "reading crops", total, console=console, transient=True)
        fit_linear_start(vae.encoder, vae.decoder, (batch["audio"] for batch in shown))
    return vae


def initial_discriminator(config: TrainConfig) -> Discriminator:
    """The discriminator a run starts from: that of the run in ``initial_weights``, or a new one."""
    torch.manual_seed(config.seed + 1)
    discriminator = Discriminator(config.discriminator)
    if config.initial_weights and (Path(config.initial_weights) / CHECKPOINT).is_file():
        saved = checkpoint.read(Path(config.initial_weights))
        if saved.discriminator is not None:
            try:
                discriminator.load_state_dict(saved.discriminator)
            except RuntimeError:
                raise ConfigError(
                    f"{config.initial_weights}: its discriminator is not the one under "
                    "`discriminator`"
                ) from None
    return discriminator


def _pretrained(config: TrainConfig) -> EarVAE:
    """The model in ``initial_weights``, without the statistics of latents that training changes."""
    vae = EarVAE.from_pretrained(config.initial_weights)
    vae.config = vae.config.without_statistics()
    return vae


def _introduce(
    config: TrainConfig, run_dir: Path, vae: EarVAE, discriminator: Discriminator | None
) -> None:
    """Print the whole configuration and the sizes, and keep the former in the run folder."""
    text = config.model_dump_json(indent=2)
    atomic.write(run_dir / "config.json", text + "\n")
    console = Console(stderr=True)
    console.print_json(text)
    for name, network in (("generator", vae), ("discriminator", discriminator)):
        if network is not None:
            count = sum(p.numel() for p in network.parameters())
            console.print(f"{name}: {count / 1e6:.2f} M parameters")
