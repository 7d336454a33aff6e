"""The base of everything that earvae refuses: one line that names the file or value and what to do.

Each room has kinds of its own, derived from this one. The command line prints the line and leaves
with status 1; anything else that is raised is a defect and keeps its traceback.
"""

from __future__ import annotations


class EarvaeError(Exception):
    """Something that cannot be used or done as asked."""


class WriteError(EarvaeError):
    """A place that cannot be written: disk full, no permission, a name too long, a hub."""


class WeightsError(EarvaeError):
    """A model that cannot be loaded: nothing there, damaged, partial, or of another form."""


class ConfigError(EarvaeError, ValueError):
    """A configuration that cannot be used; the message is one line per problem."""
