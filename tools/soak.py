"""Libraries, packs, training and evaluation under kills, full disks and bad files, for long.

    python tools/soak.py --minutes 30              (or: make soak MINUTES=30)
    python tools/soak.py --minutes 2 --job train --seed 7

In turn for each job: what it gives when it is left alone is kept as the reference. Then the same
command is started again and again in one output folder, each time with a trouble: SIGKILL, SIGTERM,
SIGINT (once or twice) or SIGHUP at a random moment, a disk that fills up, files that may only grow
to some size; now and then it is left alone until it is done. Among the music are bad files: cut
off, damaged anew for every turn, empty, a pipe, a device, links to nowhere and to themselves, odd
names.

After every start it is checked that

- the process has ended within ``PATIENCE`` after its signal, by a status that says so;
- it told no traceback;
- no file of the music has changed;
- what was finished before is there, unchanged; what has a final name is whole;
- a checkpoint loads, and is of no earlier step than before;

and when it was left alone until the end, that all is equal to the reference, byte for byte (for
checkpoints and results: value for value), and that nothing is left of the starts before.

Commands run in processes forked from this one, which has imported everything already; one in ten
is started as a user would. With the right to mount, the disk that fills up is a tmpfs. Prints what
was done and every fault; the status is 1 if there was any.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np  # noqa: E402
import soundfile  # noqa: E402
import torch  # noqa: E402

import earvae.cli.main  # noqa: E402, F401
import earvae.evaluation.evaluate  # noqa: E402
import earvae.evaluation.report.pages  # noqa: E402
import earvae.library.encode  # noqa: E402
import earvae.training.excerpts  # noqa: E402
import earvae.training.train  # noqa: E402, F401
from earvae import EarVAE  # noqa: E402
from earvae.config import CompactConfig  # noqa: E402

PATIENCE = 60.0  # seconds after a signal; training may take 30 for its step and for saving each
LONGEST = 180.0  # seconds of a start that is left alone
STARTS = 12  # of a turn at most, the last one left alone
DISK = 24 << 20  # bytes of the disk that fills up
KILLED = {signal.SIGKILL: {-9}}
ENDED = {  # by each signal; the command may also have been done first, or failed as if alone
    signal.SIGTERM: {-15, 143, 75},
    signal.SIGINT: {-2, 130, 75},
    signal.SIGHUP: {-1, 129, 75},
}
NOT_COMPARED = ("summary.json", "cache", "logs", "log.jsonl", "csv", ".lock", ".earvae")

# --------------------------------------------------------------------------- music


def write_music(folder: Path) -> None:
    """Good files, and beside them what is none."""
    chance = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(10):
        noise = np.cumsum(chance.standard_normal((4_000 + 3_000 * number, 2)), axis=0)
        noise *= 0.3 / np.abs(noise).max()
        suffix = ("wav", "flac", "ogg")[number % 3]
        place = folder / ("a", "b")[number % 2] / f"{number:02d}.{suffix}"
        place.parent.mkdir(exist_ok=True)
        soundfile.write(place, noise, 44_100)
    bad = folder / "bad"
    bad.mkdir()
    whole = (folder / "b" / "09.wav").read_bytes()
    (bad / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (bad / "empty.wav").touch()
    (bad / "text.flac").write_text("not music\n")
    (bad / ("n" * 240 + ".wav")).write_bytes(whole)
    (bad / "odd\x1b[2J\n.wav").write_bytes(b"RIFF")
    Path(os.fsdecode(os.fsencode(bad) + b"/latin\xe9.wav")).write_bytes(b"RIFF")
    os.mkfifo(bad / "pipe.wav")
    (bad / "zero.wav").symlink_to("/dev/zero")
    (bad / "nowhere.wav").symlink_to("nothing.wav")
    (bad / "loop.wav").symlink_to("loop.wav")
    (bad / "up").symlink_to("..")


def damage_music(folder: Path, chance: random.Random) -> None:
    """Other damage to copies of the good files."""
    for number, good in enumerate(sorted(folder.glob("[ab]/*"))[::3]):
        data = bytearray(good.read_bytes())
        for _ in range(chance.randint(1, 5)):
            data[chance.randrange(min(len(data), chance.choice((64, 10**6))))] = chance.randrange(
                256
            )
        end = chance.choice((len(data), chance.randrange(1, len(data))))
        (folder / "bad" / f"damaged{number}{good.suffix}").write_bytes(data[:end])


# --------------------------------------------------------------------------- jobs

Contents = dict[str, object]


@dataclass
class Job:
    """A command by its arguments for an output folder, and what is looked at in its output.

    ``finished`` are files that stay as they are once they have their names; ``result`` is what
    an undisturbed end must give.
    """

    name: str
    arguments: Callable[[Path], list[str]]
    finished: Callable[[Path], Contents]
    result: Callable[[Path], Contents]
    check: Callable[[Path, dict], list[str]] = lambda out, memory: []
    status: int = 1  # of an undisturbed end: there are bad files


def files_of(out: Path, *patterns: str) -> Contents:
    """Digests of the files with final names, by path."""
    found: Contents = {}
    for pattern in patterns:
        for path in sorted(out.glob(pattern)):
            name = path.relative_to(out)
            hidden = any(part.startswith(".") or part in NOT_COMPARED for part in name.parts)
            if path.is_file() and not hidden:
                found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def sounds_of(out: Path) -> Contents:
    """Digests of the samples of an evaluation's sound files (float WAV tells when it was made)."""
    found: Contents = {}
    for path in sorted(out.glob("audio/**/*.wav")):
        if not path.name.startswith("."):
            try:
                audio, rate = soundfile.read(path)
                found[str(path.relative_to(out))] = rate, hashlib.sha256(audio).hexdigest()
            except soundfile.SoundFileError as error:
                found[str(path.relative_to(out))] = str(error)
    return found


def whole_checkpoint(out: Path, memory: dict) -> list[str]:
    """What is wrong with a run's checkpoint and averaged weights; keeps the step in ``memory``."""
    path, faults = out / "checkpoint.pt", []
    if not path.exists():
        return ["the checkpoint is gone"] if "step" in memory else []
    try:
        step = torch.load(path, weights_only=True)["step"]
        if step < memory.get("step", 0):
            faults.append(f"the checkpoint went back from step {memory['step']} to {step}")
        memory["step"] = step
    except Exception as error:  # whatever it is, it is a fault
        return [f"the checkpoint does not load: {error}"]
    if (out / "ema" / "config.json").exists() or "ema" in memory:
        try:
            EarVAE.from_pretrained(out / "ema")
            memory["ema"] = True
        except Exception as error:
            faults.append(f"the averaged weights do not load: {error}")
    return faults


def trained(out: Path) -> Contents:
    """Weights and step of a finished run."""
    saved = torch.load(out / "checkpoint.pt", weights_only=True)
    parts = {"step": saved["step"]}
    for part in ("vae", "ema"):
        for name, value in saved[part].items():
            parts[f"{part}.{name}"] = hashlib.sha256(value.numpy().tobytes()).hexdigest()
    return parts


def evaluated(out: Path) -> Contents:
    """Figures and audio of a finished evaluation."""
    found = files_of(out, "results.csv", "report/index.html") | sounds_of(out)
    return found | {"results": json.loads((out / "results.json").read_text())}


def jobs_in(work: Path) -> list[Job]:
    """All jobs; what they need is made in ``work``."""
    music, model, recipe = work / "music", work / "model", work / "recipe.yaml"
    torch.manual_seed(0)
    EarVAE(
        CompactConfig(
            latent_channels=8, hop_length=64, short_length=32, width=8, encoder_blocks=1,
            decoder_blocks=1,
        )
    ).save_pretrained(model)  # fmt: skip
    recipe.write_text(
        f"""initial_weights: {model}
objective: {{resolutions: [64], resolutions_per_step: 1}}
discriminator: {{resolutions: [64], channels: 2, resolutions_per_step: 1}}
data: {{workers: 0, crop_samples: 1280, batch_size: 2, sources: [{{tracks: {music}}}]}}
validation: {{workers: 0, crop_samples: 1280, batch_size: 2, sources: [{{tracks: {music}}}]}}
validation_items: 2
validate_every: 5
checkpoint_every: 2
log_every: 1
keep: 2
stages:
  - {{name: a, steps: 12}}
  - {{name: b, steps: 12, adversarial: {{}}, data: {{workers: 1}}}}
"""
    )

    few = work / "few.jsonl"
    lines = [{"file": f"music/{name}"} for name in ("b/05.ogg", "a/06.wav", "b/07.flac")]
    bad = sorted(os.fsencode(path).decode(errors="replace") for path in music.glob("bad/*"))
    lines += [{"file": name} for name in bad] + [{"file": "\ud800"}, {"file": 3}, {}]
    few.write_text("\ufeff" + "".join(f"{json.dumps(line)}\n" for line in lines) + "[" * 9999)

    def library(*options: str) -> Callable[[Path], list[str]]:
        how = [*options, "--weights", str(model), "--block-files", "4", "--batch-seconds", "0.5"]
        return lambda out: ["library", str(music), "-o", str(out), *how]

    def everything(out: Path) -> Contents:
        return files_of(out, "**/*")

    def entries(out: Path) -> Contents:
        return files_of(out, "[ab]/*.safetensors", "[ab]/*.npy", "shard-*.tar")

    return [
        Job("library", library(), entries, everything),
        Job("library --shards", library("--shards"), entries, everything),
        Job("library --npy", library("--npy", "--segment-seconds", "0.1"), entries, everything),
        Job(
            "pack",
            lambda out: ["pack", str(music), "-o", str(out), "--shard-mb", "1"],
            lambda out: {},
            everything,
        ),
        Job(
            "train",
            lambda out: ["train", str(recipe), "--run", str(out), "--device", "cpu",
                         "--threads", "1"],
            lambda out: {},
            trained,
            whole_checkpoint,
            status=0,
        ),
        Job(
            "evaluate",
            lambda out: ["evaluate", str(few), "-o", str(out), "--codec", "identity", "--codec",
                         f"mine=earvae:{model}", "--seconds", "0.3", "--device", "cpu"],
            sounds_of,
            evaluated,
        ),
    ]  # fmt: skip


# --------------------------------------------------------------------------- starts


@dataclass
class Ended:
    """How a start ended. ``late``: it had to be killed after ``PATIENCE`` or ``LONGEST``."""

    status: int
    output: str
    seconds: float
    late: bool


@dataclass
class Trouble:
    """What disturbs a start: signals after ``delay`` seconds, room on the disk, a size limit."""

    name: str
    signals: tuple[signal.Signals, ...] = ()
    delay: float = 0.0
    room: int | None = None
    size: int | None = None


def start(arguments: list[str], trouble: Trouble, folder: Path, forked: bool) -> Ended:
    """Run ``earvae`` with these arguments under a trouble."""
    began = time.monotonic()
    with (folder / "output").open("wb") as output:
        if forked:
            process = _fork(arguments, trouble, output.fileno())
        else:
            process = subprocess.Popen(
                [sys.executable, "-m", "earvae.cli.main", *arguments],
                stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True,
                preexec_fn=lambda: _limit(trouble),
            ).pid  # fmt: skip
    due, waiting, late = began + LONGEST, list(trouble.signals), False
    at = began + trouble.delay + (0.0 if forked else 4.0)
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        now = time.monotonic()
        if done:
            break
        if waiting and now >= at:
            os.kill(process, waiting.pop(0))
            due, at = now + PATIENCE, now + 0.5
        if now > due:
            late = True
            os.killpg(process, signal.SIGKILL)
            due = now + 10
        time.sleep(0.005)
    _end_group(process)
    text = (folder / "output").read_text(errors="backslashreplace")
    return Ended(os.waitstatus_to_exitcode(status), text, time.monotonic() - began, late)


def _fork(arguments: list[str], trouble: Trouble, output: int) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    held = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, held)  # until the new process can take them
    process = os.fork()
    if process:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
        return process
    status = 70
    try:
        os.setsid()
        for stream in (1, 2):
            os.dup2(output, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        _limit(trouble)
        sys.argv = ["earvae", *arguments]
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
            earvae.cli.main.main()
            status = 0
        except SystemExit as leaving:
            code = leaving.code
            status = code if isinstance(code, int) else int(code is not None)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        except BaseException:
            traceback.print_exc()
            status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _limit(trouble: Trouble) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if trouble.size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (trouble.size, trouble.size))


def _end_group(process: int) -> None:
    """Whatever a killed process has started goes with it."""
    try:
        os.killpg(process, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A tmpfs at ``folder`` where that may be mounted; whether it is."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


@contextmanager
def little_room(disk: Path, room: int | None) -> Iterator[None]:
    """A file beside the output that leaves ``room`` bytes of the disk."""
    filler = disk / "filler"
    if room is not None:
        free = shutil.disk_usage(disk).free
        filler.write_bytes(bytes(max(0, free - room)))
    try:
        yield
    finally:
        filler.unlink(missing_ok=True)


# --------------------------------------------------------------------------- soaking


@dataclass
class Soak:
    """The whole: counts of what was done, and the faults."""

    work: Path
    chance: random.Random
    end: float
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def run(self, names: list[str] | None) -> None:
        """Turns until the time is over; each job has one at least."""
        write_music(self.work / "music")
        jobs = [job for job in jobs_in(self.work) if names is None or job.name in names]
        self.chance.shuffle(jobs)
        first = True
        while first or time.monotonic() < self.end:
            damage_music(self.work / "music", self.chance)
            for job in jobs:
                if first or time.monotonic() < self.end:
                    self._turn(job)
            first = False

    def _turn(self, job: Job) -> None:
        """A reference, then the same under troubles."""
        self.counts["turns"] += 1
        music = snapshot(self.work / "music")
        reference = self.work / "reference"
        shutil.rmtree(reference, ignore_errors=True)
        alone = start(job.arguments(reference), Trouble("alone"), self.work, True)
        self._judge(job, Trouble("alone"), alone)
        try:
            expected, lasting = job.result(reference), job.finished(reference)
        except Exception as error:
            self._fault(job, Trouble("alone"), f"gives no result: {error!r}", alone)
            return
        disk = self.work / "disk"
        with small_disk(disk) as mounted:
            out, memory, done = disk / "out", {}, {}
            for number in range(STARTS):
                last = number == STARTS - 1 or time.monotonic() > self.end
                trouble = Trouble("alone") if last else self._trouble(alone.seconds, mounted)
                forked = self.chance.random() > 0.1
                with little_room(disk, trouble.room):
                    ended = start(job.arguments(out), trouble, self.work, forked)
                self.counts["starts"] += 1
                self.counts[trouble.name] += 1
                self._judge(job, trouble, ended)
                present = job.finished(out)
                for name, digest in done.items():
                    if present.get(name) != digest:
                        what = "is gone" if name not in present else "has changed"
                        self._fault(job, trouble, f"a finished file {what}", ended, name)
                for name, digest in present.items():
                    if lasting.get(name) != digest:
                        self._fault(job, trouble, "a file is not whole, or not right", ended, name)
                self.counts["finished files checked"] += len(present)
                done = present
                for fault in job.check(out, memory):
                    self._fault(job, trouble, fault, ended)
                if (now := snapshot(self.work / "music")) != music:
                    changed = sorted(k for k in now | music if now.get(k) != music.get(k))
                    self._fault(job, trouble, "music has changed", ended, changed)
                    music = now
                if last:
                    break
            self._compare(job, out, expected, ended)
        disk.rmdir()

    def _trouble(self, seconds: float, mounted: bool) -> Trouble:
        delay = self.chance.random() ** 2 * seconds * 1.1
        kind = self.chance.randrange(8)
        room = self.chance.choice((0, 2_000, 20_000, 200_000))
        if kind == 0 and mounted:
            return Trouble("full disk", room=room)
        if kind <= 1:
            return Trouble("size limit", size=max(512, room))
        if kind == 2:
            return Trouble("SIGINT twice", (signal.SIGINT, signal.SIGINT), delay)
        number = self.chance.choice(
            (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        )
        return Trouble(number.name, (number,), delay)

    def _judge(self, job: Job, trouble: Trouble, ended: Ended) -> None:
        """How it ended, and what it told."""
        wanted = {job.status}
        if trouble.room is not None or trouble.size is not None:
            wanted |= {0, 1}
        for number in trouble.signals:
            wanted |= KILLED.get(number) or ENDED[number]
        if ended.late:
            self._fault(job, trouble, "hangs", ended)
        elif ended.status not in wanted:
            self._fault(job, trouble, f"ended with {ended.status}", ended)
        if "Traceback (most recent call last)" in ended.output:
            self._fault(job, trouble, "a traceback", ended)

    def _compare(self, job: Job, out: Path, expected: Contents, ended: Ended) -> None:
        """The end of a turn: equal to the reference, and nothing left over."""
        alone = Trouble("alone")
        try:
            result = job.result(out)
        except Exception as error:
            self._fault(job, alone, f"gives no result: {error!r}", ended)
            return
        differ = [k for k in {**expected, **result} if expected.get(k) != result.get(k)]
        if differ:
            self._fault(job, alone, "differs from an undisturbed run", ended, differ[:3])
        left = [path for path in out.rglob(".earvae-*.partial")]
        left += list((out / ".earvae" / "staging").glob("*"))
        if left:
            names = [str(path.relative_to(out)) for path in left[:3]]
            self._fault(job, alone, "something is left over", ended, names)
        self.counts["results compared"] += 1

    def _fault(
        self, job: Job, trouble: Trouble, what: str, ended: Ended, which: object = ""
    ) -> None:
        """Count a fault, and print it with what was told if it is the first of its kind."""
        kind = f"{job.name}, {trouble.name}: {what}"
        self.faults[kind] += 1
        if self.faults[kind] == 1:
            told = [line[:300] for line in ended.output.splitlines() if line.strip()]
            _, mark, after = ended.output.partition("Traceback (most")
            told = after.splitlines()[-12:] if mark else told[-4:]
            how = (
                f"status {ended.status}, signal after {trouble.delay:.2f} of {ended.seconds:.2f} s"
            )
            print(f"FAULT {kind} {which} ({how})", *told, sep="\n    ", flush=True)


def snapshot(folder: Path) -> dict[str, object]:
    """Every file of a folder: kind, times, content."""
    found: dict[str, object] = {}
    for place, folders, files in os.walk(folder):
        for name in files + folders:
            path = os.path.join(place, name)
            status = os.lstat(path)
            regular = stat.S_ISREG(status.st_mode)
            content = hashlib.sha256(Path(path).read_bytes()).hexdigest() if regular else ""
            found[path] = (status.st_mode, status.st_mtime_ns * regular, content)
    return found


def main() -> int:
    """The command line; its status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--job", action="append", help="only this one; repeat it")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    parser.add_argument("--nice", type=int, default=0)
    given = parser.parse_args()
    os.nice(given.nice)
    torch.set_num_threads(1)
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="earvae-soak-") as name:
        end = time.monotonic() + 60 * given.minutes
        soak = Soak(Path(name), random.Random(given.seed), end)
        soak.run(given.job)
    print(", ".join(f"{count} {what}" for what, count in sorted(soak.counts.items())))
    total = sum(soak.faults.values())
    print(f"{len(soak.faults)} kinds of faults, {total} in all" if total else "no faults")
    return 1 if total else 0


if __name__ == "__main__":
    raise SystemExit(main())
