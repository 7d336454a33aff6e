"""Short convolutions with few multiplications: the numbers behind ``exact`` and ``fast``.

``outputs`` neighbouring outputs of a filter with ``taps`` taps are the coefficients that two
polynomials' product would have, transposed, and a product of degree n − 1 is known from its
values at n points (Toom 1963, Cook 1966; Winograd 1980 for filters). With ``A``, ``G`` and ``B``
from the points,

    y = A · [(G · w) ⊙ (B · x)]      x: outputs + taps − 1 inputs, w: the filter, y: the outputs

costs one multiplication per product instead of ``outputs · taps``. For a layer of a network w
and x are matrices and every product is a matrix product, so that is the factor saved.

Real points alone are badly conditioned: at 10 outputs of 7 taps they save 11 % of the products,
and rounding errors grow 150 times. Pairs of conjugate points near the unit circle are nearly free
of that, and cost three real products where two real points cost two: a complex product needs three
real ones. The three here are projections onto directions 60° apart, a tight frame, which is kinder
to rounding than the usual choice of real part, imaginary part and their sum. The points below come
from a random search for the least growth of errors with a given number of products.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import polynomial
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Bilinear:
    """An algorithm for ``outputs`` outputs of a correlation with ``taps`` taps.

    Attributes:
        combine: A, ``[outputs, products]``, float32.
        filter: G, ``[products, taps]``, float64, rows of unit norm.
        spread: B, ``[products, outputs + taps − 1]``, float32, rows of unit norm.
    """

    combine: NDArray[np.float32]
    filter: NDArray[np.float64]
    spread: NDArray[np.float32]

    @property
    def outputs(self) -> int:
        return self.combine.shape[0]

    @property
    def taps(self) -> int:
        return self.filter.shape[1]

    @property
    def products(self) -> int:
        return self.filter.shape[0]

    @property
    def inputs(self) -> int:
        return self.spread.shape[1]


def bilinear(
    outputs: int,
    taps: int,
    real: tuple[float, ...],
    upper: tuple[complex, ...] = (),
    phase: float = 0.0,
) -> Bilinear:
    """The algorithm of some points, to which infinity is added.

    Args:
        real: finite real points.
        upper: points of the upper half plane; each stands for itself and its conjugate.
        phase: radians, of the first of the three directions per complex pair.

    Raises ValueError unless ``len(real) + 2·len(upper) = outputs + taps − 2``.
    """
    roots = [complex(x) for x in real] + [w for z in upper for w in (z, z.conjugate())]
    if len(roots) != outputs + taps - 2:
        raise ValueError(f"{outputs} outputs of {taps} taps need {outputs + taps - 2} points")
    combine, filters, spread = [], [], []
    for x in real:
        combine.append([x**i for i in range(outputs)])
        filters.append([x**i for i in range(taps)])
        spread.append(np.pad(_lagrange(roots, complex(x)).real, (0, 1)))
    for z in upper:
        basis = np.pad(_lagrange(roots, z), (0, 1))
        for k in range(3):
            # Re(u) and Re(v) along three directions give all of u·v:
            # u·v = 4/3 Σ exp(2iφ) · Re(u exp(−iφ)) · Re(v exp(−iφ));  φ = phase + k·60°
            direction = np.exp(1j * (phase + k * np.pi / 3))
            combine.append([(z**i / direction).real for i in range(outputs)])
            filters.append([(z**i / direction).real for i in range(taps)])
            spread.append(8 / 3 * (basis * direction**2).real)
    combine.append([0.0] * (outputs - 1) + [1.0])  # infinity: the highest coefficient
    filters.append([0.0] * (taps - 1) + [1.0])
    spread.append(polynomial.polyfromroots(roots).real)

    a, g, b = np.array(combine).T, np.array(filters), np.array(spread)
    scale_g = np.linalg.norm(g, axis=1, keepdims=True)
    scale_b = np.linalg.norm(b, axis=1, keepdims=True)
    a, b = a * (scale_g * scale_b).T, b / scale_b
    return Bilinear(a.astype(np.float32), g / scale_g, b.astype(np.float32))


def _lagrange(roots: list[complex], root: complex) -> NDArray[np.complex128]:
    """Coefficients of the polynomial that is 1 at ``root`` and 0 at the other roots."""
    others = [r for r in roots if r != root]
    return polynomial.polyfromroots(others) / np.prod([root - r for r in others])


def _mirrored(*points: complex) -> tuple[complex, ...]:
    """The points and their mirror images in the imaginary axis."""
    return tuple(w for z in points for w in (z, -z.conjugate()))


def _signed(*points: float) -> tuple[float, ...]:
    return (0.0, *(w for x in points for w in (x, -x)))


# Products per output and growth of rounding errors; a direct sum has 7 and 1.
SEVEN_TAPS = bilinear(  # 1.8 products, 7.6
    10, 7, _signed(0.747, 1 / 0.747, 0.424, 1 / 0.424, 1.0), _mirrored(0.329 + 0.944j), 0.901
)
SEVEN_TAPS_COARSE = bilinear(  # for bfloat16: 2.0 products, 1.5
    10, 7, _signed(0.665, 1 / 0.665, 1.0), _mirrored(0.701 + 0.711j, 0.251 + 0.968j), -0.066
)
TWO_TAPS = bilinear(3, 2, (0.0, 1.0, -1.0))  # 1.33 products (of 2), 1.3
