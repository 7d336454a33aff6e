"""``python -m earvae``: the ``earvae`` command."""

from earvae.cli.start import main

if __name__ == "__main__":
    main()
