"""The table and the times that README shows, from the numbers that are kept beside it.

    python -m experiments.readme

writes them anew, between the comments that say so.
"""

import csv
import re
import textwrap
from collections import defaultdict
from pathlib import Path

import numpy as np

from experiments.nets import TITLES
from experiments.report import differences, interval, percent, spread

README = Path("README.md")
NUMBERS = Path("experiments/reference/consistency.csv")
TIMES = Path("experiments/reference/speed.md")
GPU = Path("experiments/reference/speed-gpu.md")
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


def told(times: Path = TIMES) -> str:
    """What the page of `speed` says first, of which commit, and which of the aims are missed."""
    _, _, first, *lines = times.read_text("utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.endswith("s aim |")]
    missed = [f"- {aim}: {found}" for aim, held, found, _ in rows if held != "yes"]
    page = "\n".join(lines)
    ((cores, commit),) = re.findall("([0-9]+ cores), .*commit ([0-9a-f]+)", page)
    (seeds,) = re.findall("unless said; ([0-9]+ seeds?),", page)
    paragraph = f"{first} Measured on {cores} at commit {commit[:7]}, {seeds}."
    paragraph += f" Of {len(rows)} aims"
    paragraph += f" {len(missed)} are missed{':' if missed else '.'}"
    text = textwrap.fill(paragraph, 100, break_on_hyphens=False)
    return "\n".join([text, *([""] if missed else []), *missed, ""])


def told_on_gpu(times: Path = GPU) -> str:
    """What the page of large arrays says first, of which device, and what it lacks."""
    text = times.read_text("utf-8")
    _, _, first, *_ = text.splitlines()
    (device,) = re.findall("device gpu: ([^,]+),", text)
    ((commit, dirty),) = re.findall("commit ([0-9a-f]+)(-dirty)?", text)
    missing = "".join(re.findall("([0-9]+ of [0-9]+ cells are missing):", text))
    told = f"On an {device}, {first[0].lower()}{first[1:]}" + (f" {missing}." if missing else "")
    changes = ", with changes that were not committed" if dirty else ""
    told += f" Measured at commit {commit[:7]}{changes}."
    return textwrap.fill(told, 100, break_on_hyphens=False) + "\n"


def renewed(text: str, numbers: Path = NUMBERS, times: Path = TIMES, gpu: Path = GPU) -> str:
    """The text of README with the table and the times in their places."""
    for name, block in {
        "table": table(numbers),
        "times": told(times),
        "gpu": told_on_gpu(gpu),
    }.items():
        place = re.compile(f"(<!-- {name} -->\n).*(<!-- end of {name} -->)", re.DOTALL)
        text = place.sub(lambda found, block=block: found[1] + block + found[2], text)
    return text


if __name__ == "__main__":
    README.write_text(renewed(README.read_text("utf-8")), "utf-8")
