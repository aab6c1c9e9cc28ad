"""Whether the arms got the units that they should have got: where not, something chose among them."""

from __future__ import annotations

from math import exp, lgamma, log
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

MISMATCH: Final = 0.001
"""The p-value below which the shares are held for broken; few are so by chance, and all else hangs on it."""
_BELIEF: Final = 100.0
"""Units that the shares are believed for: more makes the test slower to doubt, and surer."""


def mismatch(units: Sequence[int], shares: Sequence[float]) -> float:
    """Return a p-value of the counts under the shares, which holds for as many looks as one likes.

    The inverse Bayes factor of a Dirichlet around the shares (Lindon and Malek, NeurIPS 35, 2022, eq. 7).
    """
    priors = [_BELIEF * share for share in shares]
    likelier = lgamma(_BELIEF) - lgamma(_BELIEF + sum(units))
    for count, share, prior in zip(units, shares, priors, strict=True):
        likelier += lgamma(prior + count) - lgamma(prior) - count * log(share)
    return exp(min(0.0, -likelier))
