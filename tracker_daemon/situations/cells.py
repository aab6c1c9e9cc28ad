"""The cells of a generation, and how far what lies in them reaches: which a question has to look into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tracker_daemon.situations.asking import Asking

_ROUNDED: Final = 1e-6
"""More than sums of shares are rounded by."""


class Cells:
    """The bounds of what lies in each cell, axis by axis; a cell is the number of its leaf."""

    def __init__(self, axes: int) -> None:
        """Begin with nothing in any."""
        self._present = np.zeros(0, dtype=np.int64)
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
        if (more := int(leaves.max(initial=-1)) + 1 - len(self._present)) > 0:
            self._present = np.pad(self._present, (0, more))
            self._low = np.pad(self._low, ((0, 0), (0, more)), constant_values=np.inf)
            self._high = np.pad(self._high, ((0, 0), (0, more)), constant_values=-np.inf)
        self._present[leaves] |= present
        self._low[:, leaves] = np.minimum(self._low[:, leaves], low.T)
        self._high[:, leaves] = np.maximum(self._high[:, leaves], high.T)

    def bounds(self, asking: Asking) -> NDArray[np.float64]:
        """Leaf by leaf, how near anything there can be; NaN where nothing can share enough."""
        far, shared = np.zeros(len(self._present)), np.ones(len(self._present))
        for number, one in asking.axes.items():
            if one.slope:  # what is flat is near everywhere, and infinity times 0 is no number
                below = np.subtract(self._low[number], one.coordinate, dtype=np.float64)
                above = np.subtract(one.coordinate, self._high[number], dtype=np.float64)
                gap = np.maximum(np.maximum(below, above, out=below), 0, out=below)
                gap *= one.slope
                far += np.minimum(gap, one.share, out=gap)
        for number, share in asking.shares.items():
            shared[self._present >> number & 1 == 0] -= share
        shared[shared < max(asking.min_shared - _ROUNDED, _ROUNDED)] = np.nan
        return far / shared
