"""Where the ``earvae`` command begins: before the slow imports, a signal simply ends it."""

import signal


def main() -> None:
    """Entry point of the ``earvae`` command. Nothing is begun yet, so nothing needs tidying."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from earvae.cli.main import main as run

    run()
