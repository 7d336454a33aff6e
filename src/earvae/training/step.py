"""One training step: the functions a reader looks for first.

``one_pass`` tells it from top to bottom: the fake is computed once; the discriminator learns from
its detached copy (``discriminator_pass``), the generator from the fake itself, which the objective
and the discriminator judge (``adversarial_terms``). Both gradients are taken at the same weights,
then ``update`` moves both sides, so that a step of several passes equals one of a larger batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from earvae.config import ADVERSARIAL, OptimiserConfig, StageConfig, TrainConfig
from earvae.discriminator import Discriminator, Judgement, View
from earvae.model.posterior import Posterior
from earvae.model.texture import PERIOD
from earvae.objective.adversarial import (
    DiscriminatorTerms,
    adversarial_loss,
    discriminator_terms,
    feature_matching_loss,
)
from earvae.objective.perceptual import PerceptualLoss
from earvae.training.augment import to_device
from earvae.training.fsdp import whole
from earvae.training.optimisers import set_optimiser
from earvae.training.stages import Place
from earvae.training.state import State


def step_generator(seed: int, step: int, purpose: int) -> torch.Generator:
    """Random numbers of one step for one purpose, the same on every rank.

    They follow from seed, step and purpose alone, so a resumed run draws what an uninterrupted
    run would, and there is no generator state to save.
    """
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 4_099 + purpose)


def posterior_noise(
    seed: int, step: int, items: slice, shape: tuple[int, int, int], device: torch.device
) -> Tensor:
    """Standard normal noise of a step, ``shape`` [crops of the step, channels, frames]: of
    ``items``, which one forward pass on one rank works on.

    An item's noise does not depend on which rank or forward pass it falls to.
    """
    noise = torch.randn(shape, generator=step_generator(seed, step, 0))[items]
    if device.type == "cuda":  # so that the copy need not be waited for
        noise = noise.pin_memory()
    return noise.to(device, non_blocking=True)


def train_step(
    fabric: Fabric,
    config: TrainConfig,
    place: Place,
    state: State,
    objective: PerceptualLoss,
    batches: Iterator[dict[str, Tensor]],
) -> dict[str, Tensor | float]:
    """One update of the generator, the discriminator or both; the figures to log.

    A step in which any gradient is not finite changes nothing and is counted. Nothing here waits
    for the device: the figures are tensors, which :func:`read_figures` turns into numbers when
    someone wants to see them.
    """
    set_learning_rates(state, place)
    passes = [
        one_pass(fabric, config, place, state, objective, next(batches), turn)
        for turn in range(place.stage.accumulate)
    ]
    means = passes[0]
    if len(passes) > 1:
        means = {name: torch.stack([p[name] for p in passes]).mean() for name in means}
    return means | update(fabric, config, place, state)


def read_figures(figures: dict[str, Tensor | float]) -> dict[str, float]:
    """Figures as numbers: one transfer from the device for all of them."""
    tensors = {name: value for name, value in figures.items() if isinstance(value, Tensor)}
    numbers = {name: value for name, value in figures.items() if name not in tensors}
    if not tensors:
        return numbers
    values = torch.stack([value.double() for value in tensors.values()]).tolist()
    return numbers | dict(zip(tensors, values, strict=True))


def one_pass(
    fabric: Fabric,
    config: TrainConfig,
    place: Place,
    state: State,
    objective: PerceptualLoss,
    batch: dict[str, Tensor],
    turn: int,
) -> dict[str, Tensor]:
    """Forward and backward on batch number ``turn`` of a step: gradients pile up, nothing moves.

    Returns the figures to log, scalars.
    """
    stage, crops = place.stage, batch["audio"]
    # What the decoder leaves out at the end of a crop is not compared: it would be silence.
    audio = crops[..., : crops.shape[2] - state.vae.decoder.tail_deficit]
    state.note_batch(batch)
    noise, first_frame, view, resolutions = _draws(fabric, config, state, stage, turn, audio)
    figures: dict[str, Tensor] = {}
    with fabric.no_backward_sync(state.module, enabled=turn < stage.accumulate - 1):
        with torch.set_grad_enabled(place.trains_generator):
            surprise = "nll" in stage.term_weights() and place.trains_generator
            fake, posterior, *nll = state.module(crops, noise, first_frame, surprise)
            fake = fake[..., : audio.shape[2]]  # [batch, 2, samples]
        figures |= latent_figures(posterior)
        real: list[Judgement] = []
        if stage.adversarial:
            with fabric.autocast():
                own, real = discriminator_pass(state.discriminator, audio, fake, view)
            (own.total / stage.accumulate).backward()
            figures |= {f"discriminator/{name}": v for name, v in own._asdict().items()}
        if place.trains_generator:
            if turn == 0 and state.balance.due(place.done):
                gradients = term_gradients(
                    fabric, state, objective, audio, fake, real, view, resolutions
                )
                state.balance.note(fabric, gradients)
            weights = state.balance.weights()
            terms = objective(
                fake.float(), audio, posterior_kl=posterior.kl().float(),
                nll=nll[0] if nll else None, generator=resolutions,
                weights={name: weights[name] for name in weights if name not in ADVERSARIAL},
            )  # fmt: skip
            if stage.adversarial:
                with fabric.autocast():
                    judged = adversarial_terms(state.discriminator, real, fake, view)
                terms = terms.plus(judged, weights)
            fabric.backward(terms.total / stage.accumulate)
            figures["loss/total"] = terms.total
            figures |= {f"raw/{name}": value for name, value in terms.terms.items()}
            figures |= {f"weighted/{name}": value for name, value in terms.weighted.items()}
    return {name: value.detach() for name, value in figures.items()}


def _draws(
    fabric: Fabric, config: TrainConfig, state: State, stage: StageConfig, turn: int, audio: Tensor
) -> tuple[Tensor, Tensor, View | None, torch.Generator]:
    """The randomness of one forward pass: posterior noise, the place in a file that each crop is
    taken to begin at (int64 ``[batch]``), the discriminator's view, and what draws the objective's
    resolutions. The last two are the same in all passes of a step, on all ranks.
    """
    first = (turn * fabric.world_size + fabric.global_rank) * stage.data.batch_size
    items = slice(first, first + len(audio))
    frames = -(-audio.shape[2] // config.model.hop_length)
    shape = (stage.crops(fabric.world_size), config.model.latent_channels, frames)
    noise = posterior_noise(config.seed, state.step, items, shape, audio.device)
    places = step_generator(config.seed, state.step, 3)
    first_frame = to_device(torch.randint(PERIOD, shape[:1], generator=places)[items], audio.device)
    view = None
    if stage.adversarial:
        chance = step_generator(config.seed, state.step, 2)
        view = state.discriminator.draw(audio.shape[2], chance)
    return noise, first_frame, view, step_generator(config.seed, state.step, 1)


def discriminator_pass(
    discriminator: Discriminator, audio: Tensor, fake: Tensor, view: View
) -> tuple[DiscriminatorTerms, list[Judgement]]:
    """The discriminator's loss on music and on the detached fake, and its view of the music."""
    discriminator.requires_grad_(True)
    real = discriminator(audio, view)
    return discriminator_terms(real, discriminator(fake.detach(), view)), real


def adversarial_terms(
    discriminator: Discriminator, real: list[Judgement], fake: Tensor, view: View
) -> dict[str, Tensor]:
    """The terms of ADVERSARIAL for the fake; their gradient passes through the discriminator."""
    discriminator.requires_grad_(False)
    judged = discriminator(fake, view)
    return {
        "adversarial": adversarial_loss(judged),
        "feature_matching": feature_matching_loss(real, judged),
    }


def term_gradients(
    fabric: Fabric,
    state: State,
    objective: PerceptualLoss,
    audio: Tensor,
    fake: Tensor,
    real: list[Judgement],
    view: View | None,
    resolutions: torch.Generator,
) -> dict[str, Tensor]:
    """The gradient of every raw term with respect to the reconstruction, ``[batch, 2, samples]``.

    The fake's graph is not touched, and the generator of random numbers is left as it was.
    """
    drawn = resolutions.get_state()
    gradients = objective.term_gradients(fake.detach().float(), audio, generator=resolutions)
    resolutions.set_state(drawn)
    if judged := [name for name in ADVERSARIAL if name in state.balance.fixed]:
        at_fake = fake.detach().requires_grad_(True)
        with fabric.autocast():
            values = adversarial_terms(state.discriminator, real, at_fake, view)
        for name in judged:
            (slope,) = torch.autograd.grad(values[name], at_fake, retain_graph=name != judged[-1])
            gradients[name] = slope.float()
    return gradients


def update(
    fabric: Fabric, config: TrainConfig, place: Place, state: State
) -> dict[str, Tensor | float]:
    """Clip both sides' gradients and apply them, if all are finite; norms and learning rates."""
    stage = place.stage
    norms: dict[str, Tensor] = {}
    if place.trains_generator:
        norms["generator"] = fabric.clip_gradients(
            state.module,
            state.optimiser,
            max_norm=stage.optimiser.gradient_clip,
            error_if_nonfinite=False,
        )
    if stage.adversarial:
        parameters = list(state.discriminator.parameters())
        _average_gradients(fabric, parameters)
        norms["discriminator"] = nn.utils.clip_grad_norm_(
            parameters, stage.adversarial.optimiser.gradient_clip
        )
    norms = whole(norms)
    # They are the same on every rank, so all ranks decide alike.
    finite = torch.stack([norm.isfinite() for norm in norms.values()]).all()
    if "generator" in norms:
        apply(state.optimiser, finite)
        state.update_average(config.ema_decay, finite)
        clipped = norms["generator"] > stage.optimiser.gradient_clip
        state.tally("clipped_steps", clipped & finite)
    if "discriminator" in norms:
        apply(state.discriminator_optimiser, finite)
    state.note_finite(finite)
    for optimiser in (state.optimiser, state.discriminator_optimiser):
        if optimiser is not None:
            optimiser.zero_grad(set_to_none=True)
    state.step += 1
    figures: dict[str, Tensor | float] = {f"gradient_norm/{side}": n for side, n in norms.items()}
    figures["learning_rate/generator"] = state.optimiser.param_groups[0]["lr"]
    if stage.adversarial:
        groups = state.discriminator_optimiser.param_groups
        figures["learning_rate/discriminator"] = groups[0]["lr"]
    return figures


def apply(optimiser: torch.optim.Optimizer, finite: Tensor) -> None:
    """A step of the optimiser if ``finite``, a boolean scalar, is true.

    A fused optimiser on a GPU decides there, so that nothing waits for the answer.
    """
    inner = getattr(optimiser, "optimizer", optimiser)  # Fabric's wrapper holds the real one
    fused = isinstance(inner, torch.optim.AdamW) and inner.param_groups[0]["fused"]
    if finite.device.type == "cuda" and fused:
        inner.found_inf = (~finite).float()
        optimiser.step()
    elif finite:
        optimiser.step()


def schedule(config: OptimiserConfig, step: int, steps: int) -> float:
    """Share of the peak that the learning rate has at ``step`` (from 0) of ``steps``: linear
    warm-up, then a half cosine down to ``final_fraction``."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.final_fraction + (1 - config.final_fraction) * cosine


def set_learning_rates(state: State, place: Place) -> None:
    """Give both optimisers what the stage's config has for this step.

    The generator's schedule begins with its first step, after those of the discriminator alone.
    """
    stage = place.stage
    alone = stage.adversarial.discriminator_only_steps if stage.adversarial else 0
    generator, own = stage.optimiser, stage.adversarial and stage.adversarial.optimiser
    share = schedule(generator, max(0, place.done - alone), stage.steps - alone)
    set_optimiser(state.optimiser, generator, share)
    if own:
        set_optimiser(state.discriminator_optimiser, own, schedule(own, place.done, stage.steps))


def latent_figures(posterior: Posterior) -> dict[str, Tensor]:
    """How wide the latents lie, and how exactly the posterior knows them."""
    return {
        "latents/std_of_means": posterior.mean.detach().float().std(),
        "latents/mean_posterior_std": posterior.std.detach().float().mean(),
    }


def _average_gradients(fabric: Fabric, parameters: list[nn.Parameter]) -> None:
    """Mean of the discriminator's gradients over ranks, in one message.

    It is small, and called twice a step in two roles, which wrappers that hide this step (DDP)
    do not allow for. Every rank has gradients for the same parameters.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if fabric.world_size == 1 or not gradients:
        return
    flat = fabric.all_reduce(torch.cat([g.flatten() for g in gradients]), reduce_op="mean")
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
