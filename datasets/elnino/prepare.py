"""Monthly temperature of the sea off Peru, as statsmodels ships it; needs statsmodels and koopman_lora."""

import sys
from pathlib import Path

import statsmodels.datasets.elnino as source

sys.path.append(str(Path(__file__).parents[1]))

from _prepare import write_steps

TABLE = source.load_pandas().data  # a row a year, a column a month

if __name__ == "__main__":
    write_steps(
        Path(__file__).parent,
        TABLE.drop(columns="YEAR").to_numpy().reshape(1, -1, 1),
        0.01,
        dt=1.0,
        time_unit="month",
        names=["temperature"],
        unit="degree_Celsius",
        system="sea surface temperature, Nino 1+2 (0-10 S, 90-80 W)",
        source="NOAA, ERSST.V3B, by way of statsmodels; public domain",
        first="1950-01",
    )
