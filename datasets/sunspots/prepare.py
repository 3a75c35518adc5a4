"""Monthly sunspot numbers, as statsmodels ships them; needs statsmodels and koopman_lora."""

import sys
from pathlib import Path

import numpy as np
import statsmodels.datasets.sunspots as source

sys.path.append(str(Path(__file__).parents[1]))

from _prepare import write_steps

LINES = (Path(source.__file__).parent / "src" / "sunspots_monthly.dat").read_text(encoding="utf-8").splitlines()
MONTHS = [float(word) for line in LINES if line[:4].isdigit() for word in line.split()[1:]]

if __name__ == "__main__":
    write_steps(
        Path(__file__).parent,
        np.array(MONTHS).reshape(1, -1, 1),
        0.1,
        dt=1.0,
        time_unit="month",
        names=["sunspot number"],
        unit="1",
        system="monthly mean sunspot number",
        source="National Geophysical Data Center, by way of statsmodels; public domain",
        first="1749-01",
    )
