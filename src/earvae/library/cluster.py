"""The Ray cluster that a library may be encoded on: the way to it, and what its nodes have."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from earvae import engine
from earvae.errors import named
from earvae.library.items import LibraryError
from earvae.model.vae import EarVAE

EXTRA = "`--ray` needs Ray; install it here and on every node: pip install 'earvae[ray]'"
RUNNING = "auto"
SECONDS_TO_ANSWER = 10.0


@contextmanager
def connected(address: str = RUNNING) -> Iterator[None]:
    """A Ray cluster inside: ``HOST:PORT`` of its head, ``local`` (started here, and stopped at the
    end), or ``auto``: that of RAY_ADDRESS, else one that runs on this machine, else a local one.

    A connection that the process has already is used, and kept. Raises LibraryError.
    """
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else it tells of its own affairs
        import ray
        import ray.data
    except ImportError:
        raise LibraryError(EXTRA) from None
    asked = os.environ.get("RAY_ADDRESS", "") if address == RUNNING else address
    if "://" in asked:
        raise LibraryError(
            f"--ray {asked}: Ray Data runs inside a cluster; give HOST:PORT of its head, or run "
            "this command on a node of it"
        )
    if ray.is_initialized():
        yield
        return
    if ":" in asked:
        _knock(asked)
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with _unseen():
            ray.init(
                address=None if address == RUNNING else address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise LibraryError(f"--ray {address}: no cluster there: {reason}") from None
    finally:
        if main and handler is not None:
            signal.signal(signal.SIGTERM, handler)  # Ray puts its own in place
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise LibraryError if nobody answers there; Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise LibraryError(
            f"--ray {address}: nobody answers there ({reason}); `ray status` on a node of the "
            "cluster tells the address"
        ) from None


@contextmanager
def _unseen() -> Iterator[None]:
    """Nothing goes to standard error: Ray's C++ says there that it was asked to be silent."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def device_of(wanted: str) -> str:
    """``cuda`` or ``cpu``, for ``auto`` by whether the cluster has a GPU. Raises LibraryError."""
    import ray

    gpus = ray.cluster_resources().get("GPU", 0)
    if wanted not in ("auto", "cpu", "cuda"):
        raise LibraryError(f"--device {wanted}: with --ray one of auto, cpu and cuda")
    if wanted == "cuda" and not gpus:
        raise LibraryError("--device cuda: no node of the cluster has a GPU; add one, or use cpu")
    return "cuda" if gpus and wanted != "cpu" else "cpu"


def threads_of() -> int:
    """Threads that PyTorch has here, or as many as the largest node has CPUs."""
    import ray

    largest = max(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"])
    return max(1, min(torch.get_num_threads(), int(largest)))


@dataclass(frozen=True)
class Workers:
    """What the workers of a cluster encode with.

    Attributes:
        device: ``cuda``, a GPU for each encoder, or ``cpu``.
        engine: a name that :func:`earvae.engine.accelerate` takes.
        threads: of each encoder. Latents of some models depend on it in their last bits.
    """

    device: str
    engine: str = "auto"
    threads: int = 1

    @property
    def shares(self) -> dict[str, dict[str, float]]:
        """Parts of CPUs and GPUs that a reader, an encoder and a writer are counted as. Of a CPU
        that also encodes a reader needs a small part."""
        if self.device == "cuda":
            encoder, reader = {"num_gpus": 1.0, "num_cpus": 0.5}, {"num_cpus": 1.0}
        else:
            encoder, reader = {"num_cpus": 0.7 * self.threads}, {"num_cpus": 0.25}
        return {"read": reader, "encode": encoder, "write": {"num_cpus": 0.05}}


def engine_of(vae: EarVAE, workers: Workers) -> tuple[str, str]:
    """Engine and precision that the workers will have. Raises EarvaeError."""
    if workers.device == "cpu":
        return engine.choose(vae, workers.engine)
    import ray

    config, name = vae.config, workers.engine

    @ray.remote(num_gpus=1, num_cpus=0)
    def ask() -> tuple[str, str] | str:
        try:
            return engine.choose(EarVAE(config).to("cuda"), name)
        except Exception as error:
            return str(named(socket.gethostname(), error))

    with explained():
        found = ray.get(ask.remote())
    if isinstance(found, str):
        raise engine.EngineError(found)
    return found


@contextmanager
def explained() -> Iterator[None]:
    """Ray's failures become a LibraryError of one line; its own telling is turned off."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        missing = next((line for line in reversed(lines) if "No module named" in line), None)
        if missing is not None:
            raise LibraryError(f"Ray: a node lacks what it needs ({missing}); {EXTRA}") from error
        raise LibraryError(f"Ray: {lines[0] if lines else type(error).__name__}") from error
