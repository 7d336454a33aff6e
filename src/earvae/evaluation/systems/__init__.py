"""What can be evaluated: models, ordinary lossy codecs, ready files, and checks of the metrics.

A new system is a subclass of :class:`System` with ``round_trip`` and ``settings``; a line in
``registry.py`` gives it a name on the command line.
"""

from earvae.evaluation.systems.system import Reconstruction, System, UnusableSystem

__all__ = ["Reconstruction", "System", "UnusableSystem"]
