"""The cells of a generation, how far what lies in them reaches, and whose it is: which to look into."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tracker_daemon.situations.asking import Asking

_ROUNDED: Final = 1e-6
"""More than sums of shares are rounded by."""
_FLOAT32: Final = 2.0**-22
"""More than a float32, and the difference of two, are rounded by, in parts of them."""


class Cells:
    """The bounds of what lies in each cell, axis by axis, and its names; a cell is the number of its leaf."""

    def __init__(self, axes: int) -> None:
        """Begin with nothing in any."""
        self._present, self._agents, self._symbols = (np.zeros(0, dtype=np.int64) for _ in range(3))
        self._low = np.zeros((axes, 0), dtype=np.float32)
        self._high = np.zeros((axes, 0), dtype=np.float32)

    def widen(
        self,
        leaves: NDArray[np.int64],
        present: NDArray[np.int64],
        low: NDArray[np.float32],
        high: NDArray[np.float32],
    ) -> None:
        """Let leaves, each named once, reach so far: the axes that any place there has, as bits, and bounds.

        Those are a row for each leaf; infinite where a place lacks the axis.
        """
        self._reserve(leaves)
        self._present[leaves] |= present
        self._low[:, leaves] = np.minimum(self._low[:, leaves], low.T)
        self._high[:, leaves] = np.maximum(self._high[:, leaves], high.T)

    def name(self, leaves: NDArray[np.int64], agents: NDArray[np.int64], symbols: NDArray[np.int64]) -> None:
        """Let leaves, each named once, hold places of more agents and symbols, as bits of their names."""
        self._reserve(leaves)
        self._agents[leaves] |= agents
        self._symbols[leaves] |= symbols

    def _reserve(self, leaves: NDArray[np.int64]) -> None:
        if (more := int(leaves.max(initial=-1)) + 1 - len(self._present)) > 0:
            self._present, self._agents, self._symbols = (
                np.pad(bits, (0, more)) for bits in (self._present, self._agents, self._symbols)
            )
            self._low = np.pad(self._low, ((0, 0), (0, more)), constant_values=np.inf)
            self._high = np.pad(self._high, ((0, 0), (0, more)), constant_values=-np.inf)

    def without(self, agent_name: str | None, symbol: str | None) -> NDArray[np.bool_]:
        """Leaf by leaf, whether no place there is by the agent, or of the symbol; None: by or of any."""
        none = np.zeros(len(self._present), dtype=bool)
        for bits, name in ((self._agents, agent_name), (self._symbols, symbol)):
            if name is not None:
                none |= bits >> bit_of(name) & 1 == 0
        return none

    def bounds(self, asking: Asking) -> NDArray[np.float32]:
        """Leaf by leaf, how near anything there can be, or a little less; NaN where too little is shared."""
        far, below, above = (np.zeros(len(self._present), dtype=np.float32) for _ in range(3))
        rounded = _ROUNDED
        for number, one in asking.axes.items():
            if not one.slope:  # what is flat is near everywhere, and infinity times 0 is no number
                continue
            np.subtract(self._low[number], one.coordinate, out=below)
            np.subtract(one.coordinate, self._high[number], out=above)
            gap = np.maximum(below, above, out=below)
            gap *= one.slope
            far += np.clip(gap, 0, one.share, out=gap)
            rounded += abs(one.coordinate) * one.slope * _FLOAT32
        far -= rounded
        lacking = np.flatnonzero(self._present & asking.bits != asking.bits)
        shared = np.ones(len(lacking))
        for number, share in asking.shares.items():
            shared -= share * (self._present[lacking] >> number & 1 == 0)
        shared[shared < max(asking.min_shared - _ROUNDED, _ROUNDED)] = np.nan
        far[lacking] /= shared
        return far


def bit_of(name: str) -> int:
    """The number of the bit that stands for a name, and for others; as `llm_bit_of_name` has it."""
    return sha256(name.encode(errors="surrogatepass")).digest()[0] & 63
