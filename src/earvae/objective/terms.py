"""Every term of the objective by name: the one list, which a new term joins with a line.

The names are those of ``ObjectiveWeights``, of the logs and of docs/objective.md. ``kl`` and
``nll`` are not here: they come from the model, not from decoded audio.
"""

from __future__ import annotations

from earvae.objective.correlation import correlation_inter, correlation_intra
from earvae.objective.magnitude import magnitude_linear, magnitude_log, magnitude_mel
from earvae.objective.phase import group_delay, instantaneous_frequency
from earvae.objective.waveform import waveform

# With a slope by hand.
MAGNITUDE = {  # Magnitudes of config.magnitude_channels -> Term; slope by log magnitude
    "magnitude_linear": magnitude_linear,
    "magnitude_log": magnitude_log,
    "magnitude_mel": magnitude_mel,
}
PHASE = {  # Phases of config.phase_channels -> Term; slope by phase
    "correlation_intra": correlation_intra,
    "instantaneous_frequency": instantaneous_frequency,
    "group_delay": group_delay,
}
STEREO = {  # Phases of Left and Right -> Term; slope by phase
    "correlation_inter": correlation_inter,
}

# By automatic differentiation: (reconstruction, target, config) -> [batch].
SPECTRA = {  # of weighted Left and Right at each resolution, complex [batch, 2, frames, bins]
}
AUDIO = {  # of audio that is not weighted, [batch, 2, samples]
    "waveform": waveform,
}

BY_HAND = tuple(MAGNITUDE | STEREO | PHASE)
SPECTRAL = (*BY_HAND, *SPECTRA)
