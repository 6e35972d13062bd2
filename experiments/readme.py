"""The table that README shows, from the numbers that are kept beside it.

    python -m experiments.readme

writes it anew, between the two comments that say so.
"""

import csv
import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from experiments.nets import TITLES
from experiments.report import differences, interval, percent, spread

README = Path("README.md")
NUMBERS = Path("experiments/reference/consistency.csv")
BLOCK = re.compile("(<!-- table -->\n).*(<!-- end of table -->)", re.DOTALL)
KEYS = ("accuracy", "reference")
"""What is compared with max."""
SHOWN = {"train_accuracy": percent, "accuracy": spread(100), "reference": spread(100)}


def table(numbers: Path = NUMBERS) -> str:
    """One line for each pooling, the most consistent first."""
    seeds: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
    for line in csv.DictReader(numbers.read_text().splitlines()):
        seeds[line["variant"]][int(line["seed"])] = {key: float(line[key]) for key in SHOWN}
    base = seeds["max"]
    pairs = {name: (TITLES[name], ours, base) for name, ours in seeds.items() if name != "max"}
    against = {row.variant: row.values for row in differences(pairs, KEYS)}

    def line(name: str) -> str:
        values = {key: np.array([seed[key] for seed in seeds[name].values()]) for key in SHOWN}
        cells = [show(values[key]) for key, show in SHOWN.items()]
        cells += [interval(against[name][key]) if name in against else "" for key in KEYS]
        return f"| {TITLES[name]} | {' | '.join(cells)} |\n"

    def consistency(name: str) -> float:
        return float(np.mean([seed["reference"] for seed in seeds[name].values()]))

    head = "| % | in training | accuracy | consistency | accuracy - max | consistency - max |\n"
    ordered = sorted(seeds, key=consistency, reverse=True)
    return f"{head}|---|---:|---:|---:|---:|---:|\n{''.join(map(line, ordered))}"


def renewed(text: str, numbers: Path = NUMBERS) -> str:
    """The text of README with the table in its place."""
    return BLOCK.sub(lambda found: found[1] + table(numbers) + found[2], text)


if __name__ == "__main__":
    README.write_text(renewed(README.read_text("utf-8")), "utf-8")
