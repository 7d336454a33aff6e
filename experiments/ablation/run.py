"""The ablation: trains every variant with every seed, scores them, and judges the claims.

    python experiments/ablation/run.py --output runs/ablation

Run it again to go on: finished runs are kept, interrupted ones go on where they stopped, and only
new reconstructions are measured. After every run OUT/results.md and OUT/results.json say how
things stand. README.md beside this file has the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml
from claims import (
    BASE,
    Claim,
    Scores,
    comparisons,
    comparisons_table,
    scores_table,
    verdict,
    verdicts_table,
)
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from earvae import atomic
from earvae.config import ConfigError, TrainConfig, merged, parse
from earvae.config_files import load
from earvae.errors import EarvaeError
from earvae.evaluation.evaluate import evaluate
from earvae.evaluation.excerpts import Span, Track, references
from earvae.evaluation.systems.registry import make
from earvae.tracks import find
from earvae.training.ending import INTERRUPTED

HERE = Path(__file__).resolve().parent


class RunFailed(Exception):
    """A run without a result; the message is a line for people."""


@dataclass(frozen=True)
class Job:
    """One variant with one seed. ``recipe`` holds plain values for `earvae train`."""

    variant: str
    seed: int
    recipe: dict
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.variant}-{self.seed}"

    @property
    def steps(self) -> int:
        return self.recipe["stages"][0]["steps"]

    def spent(self) -> tuple[float, bool]:
        """Seconds of training so far, and whether it is finished."""
        try:
            state = json.loads((self.folder / "spent.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return 0.0, False
        return state["seconds"], state["finished"]


# ------------------------------------------------------------------------------ the plan


def read_claims(path: Path, only: list[str] | None) -> list[Claim]:
    """The claims of a file, or those of the names given."""
    groups = yaml.safe_load(path.read_text(encoding="utf-8"))
    unknown = set(only or ()) - groups.keys()
    if unknown:
        raise ConfigError(f"--only {', '.join(sorted(unknown))}: one of {', '.join(groups)}")
    return [
        Claim(name, group["claim"], group["paper"], tuple(group["metrics"]), group["alternatives"])
        for name, group in groups.items()
        if not only or name in only
    ]


def variants_of(claims: list[Claim]) -> dict[str, dict]:
    """Changes of the base's recipe by variant; the base, which changes nothing, comes first."""
    variants = {BASE: {}}
    for claim in claims:
        taken = variants.keys() & claim.alternatives.keys()
        if taken:
            raise ConfigError(f"{claim.name}: another claim has a variant {', '.join(taken)}")
        variants |= claim.alternatives
    return variants


def recipe_of(base: dict, changes: dict, seed: int, steps: int) -> dict:
    """A variant's recipe. The seed sets the crops and all other draws."""
    values = merged(merged(base, changes), {"seed": seed, "data": {"seed": seed}})
    (stage,) = values["stages"]
    return values | {"stages": [stage | {"steps": steps}]}


def jobs_of(base: dict, variants: dict[str, dict], seeds: int, steps: int, out: Path) -> list[Job]:
    """All runs, one seed after the other, so that every variant has a result early.

    Raises ConfigError for a recipe that is none, before anything is trained.
    """
    jobs = []
    for seed in range(1, seeds + 1):
        for variant, changes in variants.items():
            recipe = recipe_of(base, changes, seed, steps)
            parse(TrainConfig, recipe, variant)
            jobs.append(Job(variant, seed, recipe, out / "runs" / f"{variant}-{seed}"))
    return jobs


def keep(path: Path, now: dict) -> None:
    """Write what a folder's results depend on, or raise ConfigError where it holds others."""
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != now:
        raise ConfigError(f"{path}: belongs to other settings; use another --output")
    atomic.write(path, json.dumps(now, indent=1))


# ------------------------------------------------------------------------------ training


def train(job: Job, options: argparse.Namespace, tell: Callable[[int], None]) -> None:
    """Train a run to its end, or go on with it. ``tell`` is called with the steps done.

    Raises RunFailed; SystemExit after a signal, when the run has saved.
    """
    before, finished = job.spent()
    if finished:
        return
    started = time.monotonic()
    status, stopped = in_child(
        command(job, options),
        os.environ | {"OMP_NUM_THREADS": str(options.threads), "OMP_WAIT_POLICY": "PASSIVE"},
        job.folder / "output.txt",
        lambda: tell(steps_done(job.folder / "log.jsonl")),
    )
    seconds = before + time.monotonic() - started
    finished = status == 0
    spent = {"seconds": seconds, "finished": finished}
    atomic.write(job.folder / "spent.json", json.dumps(spent))
    if finished:  # only the averaged weights are needed from here on
        (job.folder / "checkpoint.pt").unlink()
    if stopped or status == INTERRUPTED:
        raise SystemExit(INTERRUPTED)
    if not finished:
        raise RunFailed(f"{job.name}: training ended with {status}, see {job.folder}/output.txt")


def command(job: Job, options: argparse.Namespace) -> list[str]:
    """`earvae train` for a run."""
    words = [sys.executable, "-m", "earvae.cli.main", "train", str(job.folder / "recipe.json")]
    words += ["--run", str(job.folder), "--log", "csv", "--precision", options.precision]
    words += ["--device", options.device, "--devices", str(options.devices)]
    words += ["--threads", str(options.threads)]
    return words + (["--strategy", "ddp"] if options.devices > 1 else [])


def in_child(
    words: list[str], environment: dict[str, str], output: Path, watch: Callable[[], None]
) -> tuple[int, bool]:
    """Run a command, its output appended to a file, calling ``watch`` every second.

    Returns its exit status, and whether this process got a signal meanwhile. Signals go to the
    whole group of the child, once each: a terminal would reach its first process only by luck.
    """
    stopped = []
    child = None

    def pass_on(number: int, _frame: object) -> None:
        stopped.append(number)
        if child and child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)

    with output.open("ab") as file:
        # Before the child is there, or a signal in its first moments would leave it alone.
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        handlers = {number: signal.signal(number, pass_on) for number in signals}
        try:
            child = subprocess.Popen(
                words, stdout=file, stderr=file, env=environment, start_new_session=True
            )
            if stopped:  # while it was being started
                os.killpg(child.pid, signal.SIGTERM)
            while True:
                try:
                    return child.wait(timeout=1), bool(stopped)
                except subprocess.TimeoutExpired:
                    watch()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def steps_done(log: Path) -> int:
    """The last step that a run has told."""
    try:
        return json.loads(log.read_text(encoding="utf-8").splitlines()[-1])["step"]
    except (OSError, IndexError, ValueError):
        return 0  # nothing yet, or the line is being written


# ------------------------------------------------------------------------------ scoring


def score(job: Job, tracks: list[Track], out: Path, span: Span) -> dict[str, float | None]:
    """Means over tracks by metric, of the averaged weights. Raises RunFailed."""
    try:
        system = make(f"{job.name}=earvae:{job.folder / 'ema'}")
    except EarvaeError as error:
        raise RunFailed(f"{job.name}: {error}") from None
    results, failures = evaluate(tracks, [system], out / "evaluation", span)
    if failures:  # a mean over fewer tracks could not be compared
        raise RunFailed(f"{job.name}: not scored, {failures[0]}")
    return {row.metric: row.mean for row in results.summary}


def report(settings: dict, claims: list[Claim], jobs: list[Job], scores: Scores, out: Path) -> None:
    """Write ``results.json`` and ``results.md``."""
    runs = [
        {
            "variant": job.variant,
            "seed": job.seed,
            "training_seconds": job.spent()[0],
            "metrics": scores[job.variant][job.seed],
        }
        for job in jobs
        if job.seed in scores.get(job.variant, {})
    ]
    judged = []
    for claim in claims:
        found = comparisons(claim, scores)
        details = [vars(one) | {"base_is": one.outcome} for one in found]
        judged.append({"name": claim.name, "verdict": verdict(found), "comparisons": details})
    found = {"settings": settings, "runs": runs, "claims": judged}
    atomic.write(out / "results.json", json.dumps(found, indent=1))
    minutes = statistics.median(run["training_seconds"] for run in runs) / 60
    about = f"""{len(runs)} of {len(jobs)} runs: {settings["steps"]} steps of
{settings["crops_per_step"]} crops, median {minutes:.1f} min of training each, from the shipped
model. {settings["tracks"]} validation tracks, {settings["seconds"]:g} s from the middle of each.
Mean ± standard deviation over seeds of the mean over tracks. This tests the paper's claims at a
small scale, on another architecture; the base is the claimed choice in all of them."""
    text = f"""{textwrap.fill(about, 100)}

{scores_table(scores)}

{verdicts_table(claims, scores)}

{comparisons_table(claims, scores)}
"""
    (out / "results.md").write_text(text, encoding="utf-8")


# ------------------------------------------------------------------------------ the command


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/ablation"), metavar="OUT")
    parser.add_argument("--steps", type=int, default=300, help="of each run")
    parser.add_argument("--seeds", type=int, default=3, help="of each variant")
    parser.add_argument("--only", action="append", metavar="CLAIM", help="repeat it; default: all")
    parser.add_argument("--seconds", type=float, default=10.0, help="scored of each track")
    parser.add_argument("--device", default="cpu", help="as of earvae train")
    parser.add_argument("--devices", type=int, default=2, help="as of earvae train")
    parser.add_argument("--threads", type=int, default=1, help="of each of its processes")
    parser.add_argument("--precision", default="bf16-mixed", help="as of earvae train")
    return parser.parse_args(words)


def main() -> None:
    options = arguments()
    try:
        failures = ablation(options)
    except (ConfigError, EarvaeError, OSError) as error:
        raise SystemExit(str(error)) from None
    print(f"written: {options.output / 'results.md'}")
    if failures:
        raise SystemExit("\n".join(failures))


def ablation(options: argparse.Namespace) -> list[str]:
    """All runs, their scores and the report. Returns a line for each run that failed."""
    out = options.output
    claims = read_claims(HERE / "variants.yml", options.only)
    base, _ = load(HERE / "base.yaml")
    jobs = jobs_of(base, variants_of(claims), options.seeds, options.steps, out)
    tracks = references(find([base["data"]["sources"][0]["tracks"]], split="validation").files)
    training = {name: vars(options)[name] for name in ("device", "devices", "precision")}
    keep(out / "settings.json", training)
    for job in jobs:
        keep(job.folder / "recipe.json", job.recipe)
    settings = training | {
        "steps": options.steps,
        "crops_per_step": base["data"]["batch_size"] * options.devices,
        "tracks": len(tracks),
        "seconds": options.seconds,
    }
    scores: Scores = {}
    failures = []
    with progress() as bar:
        left = [job for job in jobs if not job.spent()[1]]
        done = 0  # steps of runs that this command has trained
        everything = bar.add_task("all runs", total=sum(job.steps for job in left))
        for job in jobs:
            task = bar.add_task(f"{job.variant}, seed {job.seed}", total=job.steps)

            def tell(steps: int, task=task, done=done) -> None:
                bar.update(task, completed=steps)
                bar.update(everything, completed=done + steps)

            try:
                train(job, options, tell)
                metrics = score(job, tracks, out, Span(options.seconds))
                scores.setdefault(job.variant, {})[job.seed] = metrics
                report(settings, claims, jobs, scores, out)
            except RunFailed as error:
                failures.append(str(error))
            done += job.steps * (job in left)
            bar.update(everything, completed=done)
            bar.remove_task(task)
    return failures


def progress() -> Progress:
    """A line for the run that is training and one for all, with estimated time left; nothing where
    standard error is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
        speed_estimate_period=3600,
    )


if __name__ == "__main__":
    main()
