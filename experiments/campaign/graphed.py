"""The likelihood stage and the adversarial one, each step one CUDA graph.

    python graphed.py decode SHARD.tar OUT.npz [PROCESSES]
    python graphed.py train OUT.npz[:WEIGHT] ... --seconds 400 --adversarial-seconds 150 --out RUN

A step of the compact model is a thousand short kernels, which a host takes longer to launch than a
GPU to compute. Here crops, their changes, both networks, losses and optimisers are captured once
and replayed; nothing is drawn, decoded or decided on the host. What it trains is what the recipes
beside this say: the functions are the package's own. Without a GPU it runs the same, uncaptured.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import math
import tarfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from earvae.config import CompactConfig, DiscriminatorConfig, ObjectiveConfig
from earvae.discriminator import Discriminator
from earvae.model import compact
from earvae.model.compact import DECIDED
from earvae.model.texture import PERIOD
from earvae.model.vae import EarVAE
from earvae.objective.adversarial import (
    adversarial_loss,
    discriminator_terms,
    feature_matching_loss,
)
from earvae.objective.perceptual import PerceptualLoss
from earvae.training import augment
from earvae.training.augment import FADED, LOUDNESS, MIX_DB, OCTAVES, RATIOS, THRESHOLDS_DB

RATE, CROP = 44_100, 65_536
SHARES = {
    "magnitude_linear": 0.06, "magnitude_log": 0.20, "magnitude_mel": 0.13,
    "correlation_intra": 0.06, "instantaneous_frequency": 0.06, "group_delay": 0.06,
    "adversarial": 0.22, "feature_matching": 0.22,
}  # fmt: skip
SPEEDS = (0, 0, -6, 4, -3, 6, -1, 2)  # of crops in turn, as 64ths more than 1
VIEWS = (((0, 3), (0, 3)), ((1, 4), (1, 4)), ((0, 2), (2, 5)), ((1, 3), (0, 4)), ((2, 4), (1, 3)))
# of a step each: scales of the discriminator, resolutions of the objective
NOTES, PARTIALS = 3, 48  # of an additive sound
FINE_HZ, TREBLE_HZ = 600.0, 4000.0
PANNED_DB = (-40, -6)  # of the quieter ear
HELD_OUT = 12  # excerpts that nothing is trained on


# ------------------------------------------------------------------------------ music


def decoded(data: bytes) -> np.ndarray:
    """An excerpt as int16 ``[2, samples]`` at RATE; a quieter one where it goes beyond ±1."""
    import soundfile
    import soxr

    audio, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    if rate != RATE:
        audio = soxr.resample(audio, rate, RATE)
    audio = np.repeat(audio, 2, axis=1) if audio.shape[1] == 1 else audio[:, :2]
    audio = audio / max(1.0, float(np.abs(audio).max()))
    return np.rint(audio.T * 32_767).astype(np.int16)


def decode(shard: str, out: str, processes: int) -> None:
    with tarfile.open(shard) as tar:
        files = [tar.extractfile(member).read() for member in tar if member.isfile()]
    files = [data for data in files if data[:4] in (b"OggS", b"fLaC")]
    with ProcessPoolExecutor(processes) as pool:
        parts = list(pool.map(decoded, files, chunksize=4))
    np.savez(out, audio=np.concatenate(parts, axis=1), lengths=[p.shape[1] for p in parts])
    print(f"{shard}: {len(parts)} excerpts, {sum(p.shape[1] for p in parts) / RATE / 60:.1f} min")


class Music:
    """Excerpts of several files on a device, drawn by the weight of a file."""

    def __init__(self, files: list[str], device: torch.device) -> None:
        audio, lengths, weights = [], [], []
        for entry in files:
            path, _, weight = entry.partition(":")
            with np.load(path) as held:
                audio.append(torch.from_numpy(held["audio"]))
                own = held["lengths"]
            lengths.append(own)
            weights.append(own / own.sum() * float(weight or 1))
        self.audio = torch.cat(audio, dim=1).to(device)
        lengths, weights = np.concatenate(lengths), np.concatenate(weights)
        starts = np.cumsum(lengths) - lengths
        self.read = math.ceil((CROP + 2 * FADED) * 70 / 64)
        held_out = np.linspace(0, len(lengths) - 1, HELD_OUT).astype(int)
        self.aside = [(int(starts[i]), int(lengths[i])) for i in held_out]
        seen = np.setdiff1d(np.arange(len(lengths)), held_out)
        self.seen = [(int(starts[i]), int(lengths[i])) for i in seen[:: len(seen) // HELD_OUT]]
        weights[held_out] = 0
        weights[lengths <= self.read] = 0
        self.ends = torch.tensor(np.cumsum(weights) / weights.sum(), device=device)
        self.starts = torch.tensor(starts, device=device)
        self.room = torch.tensor(np.maximum(lengths - self.read, 1), device=device)
        self.minutes = lengths.sum() / RATE / 60

    def crops(self, count: int) -> Tensor:
        """``[count, 2, read]`` float32 from anywhere; all on the device."""
        chance = torch.rand(2, count, device=self.ends.device, dtype=torch.float64)
        which = torch.searchsorted(self.ends, chance[0]).clamp_max(len(self.ends) - 1)
        first = self.starts[which] + (chance[1] * self.room[which]).long()
        return self.audio.unfold(1, self.read, 1)[:, first].transpose(0, 1) / 32_768

    def whole(self, places: list[tuple[int, int]]) -> Tensor:
        """``[places, 2, CROP]`` from the beginnings."""
        return torch.stack([self.audio[:, a : a + CROP] for a, n in places if n > CROP]) / 32_768


def notes(count: int, device: torch.device) -> Tensor:
    """``[count, 2, CROP]`` of additive sounds: three notes each, harmonic or a little stretched,
    with vibrato or none, struck or held, anywhere between the ears; every fourth is a lone sine.
    Their partials from a kilohertz up are where those below say."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, NOTES, 1, 1, device=device)

    time = torch.arange(CROP, device=device) / RATE
    partial = torch.arange(1, PARTIALS + 1, device=device, dtype=torch.float32)[:, None]
    lone = (torch.arange(count, device=device) % 4 == 3).view(-1, 1, 1, 1)
    first = 55 * 16 ** uniform(0, 1)  # Hz, to 880
    first = torch.where(lone, 100 * 120 ** uniform(0, 1), first)  # to 12 kHz
    stretch = (1 + 10 ** uniform(-6, -3.3) * partial.square()).sqrt()
    frequency = first * partial * stretch  # [count, NOTES, PARTIALS, 1]
    gain = partial ** -uniform(0.5, 2.5) * (1 + 0.9 * torch.rand(frequency.shape, device=device))
    gain = gain * (frequency < 16_000) * torch.where(lone, partial == 1, True)
    depth = uniform(0, 0.01) * (uniform(0, 1) < 0.5)
    rate = uniform(4, 7)
    bent = time + depth / (2 * math.pi * rate) * (2 * math.pi * rate * time).sin()
    phase = 2 * math.pi * torch.rand(frequency.shape, device=device)
    since = (time - uniform(-0.5, 1.2)).clamp_min(0)
    decay = uniform(0, 4) * (1 + uniform(0, 0.1) * partial)
    shape = (1 - torch.exp(-since / uniform(0.002, 0.1))) * torch.exp(-since * decay)
    sound = (gain * shape * (2 * math.pi * frequency * bent + phase).sin()).sum(dim=2)
    pan = uniform(0.15, 1.42)[..., 0]
    both = torch.stack([sound * pan.cos(), sound * pan.sin()], dim=2)  # [count, NOTES, 2, CROP]
    return both.sum(dim=1)


class Changes:
    """The random changes of crops that ninth.yaml has, drawn and made without the host."""

    def __init__(
        self, device: torch.device, plain: float, sung: int = 0, panned: float = 0.0
    ) -> None:
        self.sung = sung  # how many crops of a batch have notes added
        self.panned = panned  # share of crops of which one ear hears little
        self.k_weights = augment._k_weights(CROP, RATE, device)
        self.plain = plain  # share of crops with nothing but gain, channels and polarity

    def __call__(self, audio: Tensor) -> Tensor:
        count = len(audio)

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(count, 1, 1, device=audio.device)

        def happens(probability: float) -> Tensor:
            return torch.rand(count, 1, 1, device=audio.device) < probability

        if self.panned:
            quieter = 10 ** (uniform(*PANNED_DB) / 20 * happens(self.panned))
            audio = torch.cat([audio[:, :1], audio[:, 1:] * quieter], dim=1)
        changed = ~happens(self.plain)
        mixed = happens(0.15) & changed
        added = torch.roll(audio, 1, 0)
        audio = torch.where(mixed, augment.mix(audio, added, 10 ** (uniform(*MIX_DB) / 20)), audio)
        audio = self.at_speeds(audio)
        if self.sung:
            added, own = notes(self.sung, audio.device), audio[: self.sung]
            loud = 10 ** (uniform(-12, 6)[: self.sung] / 20)
            alone = torch.rand(self.sung, 1, 1, device=audio.device) < 0.2
            added = added * (0.1 / (added.square().mean(dim=(1, 2), keepdim=True).sqrt() + 1e-9))
            sung = torch.where(alone, added, augment.mix(own, added, loud))
            audio = torch.cat([sung, audio[self.sung :]])
        gains = 2 * torch.randn(count, len(OCTAVES), device=audio.device) * changed[..., 0]
        bass = 10 ** (uniform(-3, 6) * changed / 20) - 1
        audio = augment.equalise(audio, gains, RATE, bass[..., 0])
        audio = augment.widen(audio, uniform(-4, 3) * changed)
        ratio = torch.where(happens(0.2) & changed, uniform(*RATIOS), 1.0)
        audio = augment.compress(audio, ratio, uniform(*THRESHOLDS_DB), RATE)
        bent = happens(0.1) & changed
        audio = torch.where(bent, augment.saturate(audio, uniform(0.1, 0.6)), audio)
        limited = happens(0.3) & changed
        audio = torch.where(limited, self.limit(audio, uniform(*LOUDNESS)), audio)
        gain = 10 ** (uniform(-12, 6) / 20) * torch.where(happens(0.5), 1.0, -1.0)
        return torch.where(happens(0.5), audio.flip(1), audio) * gain

    @staticmethod
    def at_speeds(audio: Tensor) -> Tensor:
        length, out = CROP + 2 * FADED, []
        parts = audio.chunk(len(SPEEDS))
        for part, faster in zip(parts, SPEEDS, strict=False):
            source = length * (64 + faster) // 64
            if source == length:
                out.append(part[..., FADED : FADED + CROP])
                continue
            fade = torch.linspace(0, torch.pi / 2, FADED, device=audio.device).sin()
            part = part[..., :source].clone()
            part[..., :FADED] *= fade
            part[..., source - FADED :] *= fade.flip(0)
            part = torch.fft.irfft(torch.fft.rfft(part), n=length)
            out.append(part[..., FADED : FADED + CROP] * (length / source))
        return torch.cat(out)

    def limit(self, audio: Tensor, loudness: Tensor) -> Tensor:
        gain_db, out = torch.zeros_like(loudness), audio
        for _ in range(3):
            gain_db = gain_db + loudness - augment._loudness(out, self.k_weights)
            gain_db = gain_db.clamp_max(augment.MOST_GAIN_DB)
            out = augment._below_ceiling(audio * 10 ** (gain_db / 20))
        return out


# ------------------------------------------------------------------------------ a step


class Graphed:
    """A function without arguments, run as a CUDA graph after a few runs as it is."""

    def __init__(self, step, device: torch.device, wanted: bool = True) -> None:
        self.step, self.graph = step, None
        if device.type != "cuda" or not wanted:
            return
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            step()

    def __call__(self) -> None:
        self.graph.replay() if self.graph else self.step()


class Side:
    """A network with AdamW whose learning rate is on the device, and gradients of bounded norm."""

    def __init__(self, groups: list[tuple[list, float]], betas, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        self.parameters = [p for group, _ in groups for p in group]
        self.shares = [share for _, share in groups]
        self.optimiser = torch.optim.AdamW(
            [{"params": group, "lr": torch.zeros((), device=device)} for group, _ in groups],
            betas=betas, weight_decay=0.01, fused=True, capturable=on_gpu,
        )  # fmt: skip
        self.clipped = torch.zeros((), device=device)

    def set_rate(self, rate: float) -> None:
        for group, share in zip(self.optimiser.param_groups, self.shares, strict=True):
            group["lr"].fill_(rate * share)

    def clear(self) -> None:
        self.optimiser.zero_grad(set_to_none=True)

    def update(self, clip: float = 1.0) -> Tensor:
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, clip)
        finite = norm.isfinite()
        self.optimiser.found_inf = (~finite).float()
        if norm.device.type == "cuda" or finite:
            self.optimiser.step()
        self.clipped += (norm > clip).float()
        return finite


class Training:
    """The generator with its average; what :meth:`likelihood` and :meth:`adversarial` train."""

    def __init__(self, music: Music, device: torch.device, args: argparse.Namespace) -> None:
        torch.manual_seed(args.seed)
        self.device, self.args, self.music = device, args, music
        self.vae = EarVAE(CompactConfig(tones_hz=args.tones_hz)).to(device).train()
        if args.start:
            state = load_file(Path(args.start) / "model.safetensors")
            for name, own in self.vae.state_dict().items():  # what it has not starts anew
                if name not in state or state[name].shape == own.shape:
                    continue
                print(f"{name}: {list(state[name].shape)} there, {list(own.shape)} here")
                both = state.pop(name).unflatten(0, (2, -1))  # of Mid and Side
                if name.startswith("decoder.shape"):  # once of all features
                    state[name] = both[:, : len(own) // 2].flatten(0, 1)
            state = {name: tensor.float() for name, tensor in state.items()}
            missing, left = self.vae.load_state_dict(state, strict=False)
            print(f"new: {missing}; not taken: {left}")
        else:
            crops = (self.changed(music.crops(50), 1.0) for _ in range(30))
            compact.fit_linear_start(self.vae.encoder, self.vae.decoder, crops)
        self.counts(self.vae.decoder)
        self.ema = copy.deepcopy(self.vae).eval().requires_grad_(False)
        if args.only:
            for name, parameter in self.vae.named_parameters():
                parameter.requires_grad_(any(name.startswith(one) for one in args.only))
        named = {n: p for n, p in self.vae.named_parameters() if p.requires_grad}
        linear = [p for n, p in named.items() if "linear_mid" in n or "linear_side" in n]
        rest = [p for n, p in named.items() if "linear_mid" not in n and "linear_side" not in n]
        groups = [(rest, 1.0), (linear, args.linear_rate)]
        self.side = Side([group for group in groups if group[0]], (0.8, 0.95), device)
        self.keep = torch.zeros((), device=device)  # share of the new weights in the average
        self.sums = torch.zeros(8, device=device)
        self.finite = torch.zeros((), device=device)
        self.changes = Changes(device, args.plain, args.notes, args.panned)

    def counts(self, decoder) -> None:
        """Let fine spectra count ``fine`` times from FINE_HZ up, where lines are missed, and frames
        ``treble`` times from TREBLE_HZ up."""
        fine, frames = decoder.fine_surprise, decoder.surprise
        hz = fine.fine * RATE / len(fine.window)
        fine.share.mul_(torch.where(hz >= FINE_HZ, self.args.fine, 1.0))
        hz = decoder.transform.frequencies(RATE)[: len(frames.share)].to(frames.share.device)
        frames.share.mul_(torch.where(hz >= TREBLE_HZ, self.args.treble, 1.0))

    def changed(self, audio: Tensor, plain: float) -> Tensor:
        return Changes(self.device, plain)(audio)

    def autocast(self):
        on = self.device.type == "cuda"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on, cache_enabled=False)

    def expect(self, vae: EarVAE, crops: Tensor, noisy: bool = True):
        """What the decoder tells, the negative log likelihood and the KL divergence."""
        posterior = vae.encode(crops)
        latents = posterior.at(torch.randn_like(posterior.mean)) if noisy else posterior.mode()
        decoder, nll = vae.decoder, []
        told = decoder.tell(latents)
        expected = decoder.expect(told)
        with torch.autocast(self.device.type, enabled=False):
            frames = decoder.transform(crops)
            nll.append(decoder.surprise(expected, frames))
            left_over = crops - decoder.transform.inverse(expected.mean)
            nll.append(decoder.fine_surprise(expected, left_over, crops))
        return told, sum(nll), posterior.kl()

    def average(self, finite: Tensor) -> None:
        with torch.no_grad():
            own = [p.detach() for p in self.vae.parameters()]
            held = list(self.ema.parameters())
            difference = torch._foreach_sub(own, held)
            torch._foreach_mul_(difference, self.keep * finite)
            torch._foreach_add_(held, difference)

    def likelihood_step(self) -> None:
        with torch.no_grad():
            crops = self.changes(self.music.crops(self.args.batch))
        self.side.clear()
        with self.autocast():
            _, nll, kl = self.expect(self.vae, crops)
        (nll + 5e-5 * kl).backward()
        finite = self.side.update()
        self.average(finite)
        self.sums[:3] += torch.stack([nll, kl, 1 - finite.float()]).detach()

    # -------------------------------------------------------------------------- adversarial

    def prepare_adversarial(self) -> None:
        args, device = self.args, self.device
        torch.manual_seed(args.seed + 1)
        config = DiscriminatorConfig(
            channels=args.channels, compression=0.3, crop_samples=args.judged or None
        )
        self.discriminator = Discriminator(config).to(device)
        if device.type == "cuda":
            self.discriminator.to(memory_format=torch.channels_last)
        self.judge = Side([(list(self.discriminator.parameters()), 1.0)], (0.5, 0.9), device)
        names = {name: 0.0 for name in ObjectiveConfig().weights.model_dump()}
        on = {n: 1.0 for n in SHARES if n not in ("adversarial", "feature_matching")}
        objective = ObjectiveConfig(
            weights=names | on, log_floor=3e-6, phase_weighting="amplitude"
        )  # fmt: skip
        self.objective = PerceptualLoss(objective, RATE).to(device).train()
        self.norms: dict[str, Tensor] = {}
        self.weights = {n: torch.zeros((), device=device) for n in SHARES}
        self.learns = False

    def fake(self, crops: Tensor):
        with self.autocast():
            told, nll, kl = self.expect(self.vae, crops)
            places = torch.randint(PERIOD, (len(crops),), device=self.device)
            expected = self.vae.decoder.expect(told, DECIDED)
            return self.vae.decoder.draw(expected, places).float(), nll, kl

    def judged(self, audio: Tensor, scales: Sequence[int]) -> list:
        return [self.discriminator.scales[number](audio) for number in scales]

    def adversarial_step(self, generator: bool, scales: Sequence[int], lengths=()) -> None:
        with torch.no_grad():
            crops = self.changes(self.music.crops(self.args.adversarial_batch))
        self.side.clear()
        self.judge.clear()
        with torch.set_grad_enabled(generator):
            fake, nll, kl = self.fake(crops)
        first, n = (CROP - (self.args.judged or CROP)) // 2, self.args.judged or CROP
        seen, drawn = crops[..., first : first + n], fake[..., first : first + n]
        self.discriminator.requires_grad_(True)
        with self.autocast():
            real = self.judged(seen, scales)
            own = discriminator_terms(real, self.judged(drawn.detach(), scales))
        own.total.backward()
        if generator:
            self.discriminator.requires_grad_(False)
            factors = {n: w for n, w in self.weights.items() if n not in ADVERSARIAL}
            transforms = [self.objective.spectral.transforms[number] for number in lengths]
            self.objective.spectral.draw = lambda _: transforms
            terms = self.objective(fake, crops, weights=factors)
            with self.autocast():
                theirs = self.judged(drawn, scales)
                adversarial = adversarial_loss(theirs), feature_matching_loss(real, theirs)
            total = terms.total + nll + 5e-5 * kl
            for name, value in zip(ADVERSARIAL, adversarial, strict=True):
                total = total + self.weights[name] * value
            total.backward()
            finite = self.side.update()
            self.average(finite)
            found = [terms.terms["magnitude_log"], terms.terms["magnitude_mel"], *adversarial]
            self.sums[4:] += torch.stack(found).detach()
        self.judge.update()
        self.sums[:4] += torch.stack([nll, kl, own.accuracy, own.total]).detach()

    def balance(self) -> None:
        """Measure every term's gradient by the audio, and weigh by their shares."""
        with torch.no_grad():
            crops = self.changes(self.music.crops(self.args.adversarial_batch))
            fake, _, _ = self.fake(crops)
        every = tuple(range(len(self.discriminator.scales)))
        self.objective.spectral.draw = lambda _: list(self.objective.spectral.transforms)
        gradients = self.objective.term_gradients(fake, crops)
        first, n = (CROP - (self.args.judged or CROP)) // 2, self.args.judged or CROP
        self.discriminator.requires_grad_(False)
        leaf = fake.detach().requires_grad_()
        with self.autocast():
            with torch.no_grad():
                real = self.judged(crops[..., first : first + n], every)
            theirs = self.judged(leaf[..., first : first + n], every)
            values = adversarial_loss(theirs), feature_matching_loss(real, theirs)
        for name, value in zip(ADVERSARIAL, values, strict=True):
            (gradients[name],) = torch.autograd.grad(value, leaf, retain_graph=True)
        for name, slope in gradients.items():
            norm = torch.linalg.vector_norm(slope.float(), dim=(1, 2)).mean() * len(slope)
            before = self.norms.get(name, norm)
            self.norms[name] = torch.where(norm > 2 * before, norm, before + 0.2 * (norm - before))
            scale = SHARES[name] / sum(SHARES.values())
            self.weights[name].copy_(scale / self.norms[name].clamp_min(1e-12))

    @torch.no_grad()
    def surprises(self) -> tuple[float, float]:
        """At music that is trained on, and at music that is not, of the averaged weights."""
        found = []
        for places in (self.music.seen, self.music.aside):
            with self.autocast():
                found.append(float(self.expect(self.ema, self.music.whole(places), False)[1]))
        return tuple(found)


ADVERSARIAL = ("adversarial", "feature_matching")


def stage(training: Training, name: str, step, seconds: float, peak: float, log, warm: int) -> int:
    """Run ``step`` for so long, the learning rate following the clock; steps done."""
    args, done, began, told = training.args, 0, time.time(), time.time()
    while (elapsed := time.time() - began) < seconds and done < args.most:
        share = 0.5 * (1 + math.cos(math.pi * elapsed / seconds))
        rate = peak * min(1, (done + 1) / warm) * (0.02 + 0.98 * share)
        training.side.set_rate(rate)
        training.keep.fill_(max(1 - args.decay, 1 / (done + 2)) if name == "likelihood" else 0.002)
        step(done, elapsed / seconds)
        done += 1
        if done % args.keep == 0:
            save(training.ema, Path(args.out) / name)
        if done % args.every == 0:
            sums = (training.sums / args.every).tolist()
            training.sums.zero_()
            now = time.time()
            row = {
                "stage": name, "step": done, "seconds": round(now - began, 2), "rate": rate,
                "ms": round(1000 * (now - told) / args.every, 2),
                "sums": [round(x, 4) for x in sums], "clipped": float(training.side.clipped),
            }  # fmt: skip
            if done % (args.every * 5) == 0:
                row["seen"], row["aside"] = training.surprises()
            log.write(json.dumps(row) + "\n")
            log.flush()
            print(json.dumps(row), flush=True)
            told = time.time()
    return done


def save(vae: EarVAE, path: Path) -> None:
    vae.save_pretrained(path, torch.float16)


def train(args: argparse.Namespace) -> None:
    began = time.time()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("highest")
    if args.split:
        mid, side = (int(n) / 64 for n in args.split.split("/"))
        compact.MID_LATENTS, compact.SIDE_LATENTS = mid, side
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    music = Music(args.music, device)
    training = Training(music, device, args)
    print(f"{music.minutes:.1f} min of music, ready after {time.time() - began:.1f} s", flush=True)
    with open(out / "log.jsonl", "w") as log:
        if args.seconds:
            training.side.set_rate(0.0)
            training.keep.fill_(1.0)
            graphed = Graphed(training.likelihood_step, device, not args.eager)
            training.sums.zero_()
            print(f"captured after {time.time() - began:.1f} s", flush=True)
            stage(training, "likelihood", lambda *_: graphed(), args.seconds, args.rate, log, 200)
            save(training.ema, out / "likelihood")
            print(f"likelihood saved after {time.time() - began:.1f} s", flush=True)
            del graphed
            training.side.clear()
        if args.adversarial_seconds:
            training.prepare_adversarial()
            graphs = [
                Graphed(partial(training.adversarial_step, False, *view), device, not args.eager)
                for view in VIEWS
            ]
            training.sums.zero_()
            training.judge.set_rate(args.judge_rate)
            for number in range(args.alone):
                graphs[number % len(VIEWS)]()
                if number % 100 == 99:
                    print(f"discriminator {(training.sums[:4] / 100).tolist()}", flush=True)
                    training.sums.zero_()
            del graphs
            training.judge.clear()
            for _ in range(5):
                training.balance()
            training.side.set_rate(0.0)
            training.judge.set_rate(0.0)
            graphs = [
                Graphed(partial(training.adversarial_step, True, *view), device, not args.eager)
                for view in VIEWS
            ]
            training.sums.zero_()
            print(f"captured after {time.time() - began:.1f} s", flush=True)

            def step(done: int, share: float) -> None:
                if done % 200 == 0 or done in (50, 100):
                    training.balance()
                training.judge.set_rate(args.judge_rate * (1 - 0.9 * share))
                graphs[done % len(VIEWS)]()

            stage(
                training, "adversarial", step, args.adversarial_seconds, args.adversarial_rate,
                log, 200,
            )  # fmt: skip
            save(training.ema, out / "adversarial")
            weights = {n: float(w) for n, w in training.weights.items()}
            print(f"adversarial saved after {time.time() - began:.1f} s; {weights}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("decode")
    one.add_argument("shard")
    one.add_argument("out")
    one.add_argument("processes", type=int, nargs="?", default=2)
    one = commands.add_parser("train")
    one.add_argument("music", nargs="+")
    one.add_argument("--out", required=True)
    one.add_argument("--start", default="")
    one.add_argument("--only", nargs="*", default=[], help="names that trained ones begin with")
    one.add_argument("--seconds", type=float, default=0)
    one.add_argument("--adversarial-seconds", type=float, default=0)
    one.add_argument("--most", type=int, default=10**9, help="steps of a stage")
    one.add_argument("--batch", type=int, default=32)
    one.add_argument("--adversarial-batch", type=int, default=16)
    one.add_argument("--rate", type=float, default=1.2e-3)
    one.add_argument("--adversarial-rate", type=float, default=3e-4)
    one.add_argument("--judge-rate", type=float, default=5e-4)
    one.add_argument("--alone", type=int, default=300, help="steps of the discriminator alone")
    one.add_argument("--linear-rate", type=float, default=1.0, help="share of the rate")
    one.add_argument("--plain", type=float, default=0.3, help="share of crops left unchanged")
    one.add_argument("--notes", type=int, default=0, help="crops of a batch with notes added")
    one.add_argument("--panned", type=float, default=0.0, help="share of crops panned hard")
    one.add_argument("--fine", type=float, default=1.0, help="how much fine spectra count")
    one.add_argument("--treble", type=float, default=1.0, help="how much frames count there")
    one.add_argument("--decay", type=float, default=0.999)
    one.add_argument("--channels", type=int, default=32)
    one.add_argument("--judged", type=int, default=0, help="samples that the judge sees; 0 = all")
    one.add_argument("--split", default="", help="latents of Mid and of Side, 34/14")
    one.add_argument("--tones-hz", type=float, default=4000, help="2000: none above the split")
    one.add_argument("--every", type=int, default=100)
    one.add_argument("--keep", type=int, default=1000, help="steps between weights saved")
    one.add_argument("--seed", type=int, default=21)
    one.add_argument("--eager", action="store_true")
    args = parser.parse_args()
    if args.command == "decode":
        decode(args.shard, args.out, args.processes)
    else:
        train(args)


if __name__ == "__main__":
    main()
