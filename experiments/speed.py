"""How long does each pooling take, forward and with its gradient, and what bounds it?

Command:  python -m experiments run speed      (with others to compare: pip install '.[speed]')
Time:     up to 25 minutes on 2 cores for each seed
Result:   milliseconds of value, and of value and gradient; ratios to the floor, to Flax and to
          PyTorch; compile time, bytes kept for the backward pass, temporary bytes; and what a
          training step gains

All contenders of a case run in one process, by turns, in blocks: a warm call, then the best of
three, or of as many as take 20 ms, since short ones need some calls until their buffers are where
they stay; the median over the blocks counts. So each runs with its own buffers warm, and a slow
moment of the machine meets them all. One that has had its share of seconds sits out the blocks that
are left; of one that needs them all for a single call, this call counts. Before a block, what is
pooled is laid elsewhere in memory, since what the caches keep of it depends on where it lies.
PyTorch runs in both layouts, and the better one counts. A block waits for the machine to be quiet,
which a fixed computation tells (`quiet`); what this took is written beside each time. Where most
blocks were not quiet, all are measured again, up to twice, and the quietest try counts. More
seeds measure again: means over them are shown.

The *floor* is an elementwise operation that reads and writes the same bytes once: x and y for the
value; x, y and their gradients for the gradient. It runs in pieces, so a result of more than 32 MB,
which costs everyone else fresh pages on every call, costs the floor none. It is measured in the
same blocks. So is what the poolings that only jaxpool has are compared with, its max or average of
the same windows; what adaptive pooling is compared with, jaxpool's uniform windows of the same
input that are as many; what the longest window is, a short one; and a training step without
pooling, which says how much there is to gain: it takes every second pixel instead, or the first
quarter of the image, whichever is faster. The net of the experiments has a twin in PyTorch, which
does all of the same step.

With `--data large`, for GPUs, arrays have as many examples as fill 256 MB, and 20 calls are made
before the last one is waited for: launching a program takes a GPU longer than running it on less.

`check` holds stored results to what is promised about memory.
"""

import ctypes
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from typing import Any

import numpy as np

from experiments import config as configs
from experiments.contenders import (
    ADAPTIVE,
    CASES,
    FORMS,
    LONG,
    MASKED,
    SHORT,
    SIX,
    SMOOTH,
    SWEEP,
    ZOO,
    Case,
    Placed,
    Runs,
)
from experiments.quiet import QUIET, Pulse
from experiments.report import Claim, Column, Picture, Row, Section, Sheet, by_variant, seeds_of
from experiments.store import Cell

NAME, LARGE = "speed", "large"
QUESTION = "How long does each pooling take, forward and with its gradient?"
WORKERS = 1  # nothing else may run while a clock does
OF_ONE_COMMIT = True  # measured anew more often than the rest: not on the page of all

EVERY = CASES | FORMS | MASKED | SWEEP | ADAPTIVE
OPS = ("max", "avg", *SMOOTH)
PLAIN = (*OPS, "min", "sum")
STEPS = ("lenet", "resnet", "small")  # of experiments.steps, which loads JAX
APART = {"stem": CASES["stem"], "vgg": CASES["vgg"]}  # where the others of jaxpool are timed

# A variant is a pooling and a case, max@stem, or step@lenet.
VARIANTS = [
    *(f"{op}@{case}" for case in (*CASES, *MASKED, *ADAPTIVE) for op in OPS),
    *(f"{op}@{case}" for case in SIX for op in ("min", "sum")),
    *(f"{op}@{case}" for case in (*FORMS, *SWEEP) for op in ("max", "avg")),
    *(f"{op}@{case}" for case in APART for op in ZOO),
    *(f"step@{name}" for name in STEPS),
]


@dataclass(frozen=True, kw_only=True)
class Config(configs.Config):
    """All that one measurement depends on.

    A contender has its `blocks`, unless it has taken more than `seconds`, of which a training step
    has `longer` times as many. A block is a warm call and the best of `calls`, or of more, until
    these have taken `least` seconds. `patience`: how many seconds to wait for quiet moments, in
    each of so many `tries` to have them.
    """

    experiment: str = NAME
    one_example: bool
    blocks: int
    seconds: float
    calls: int = 3
    least: float = 0.02
    longer: int = 4
    patience: float = 5
    tries: int = 3


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How often to measure what."""

    about: str
    blocks: int
    seconds: float
    seeds: int = 1
    variants: Sequence[str] = tuple(VARIANTS)


PRESETS = {
    "smoke": Preset(
        about="seconds: does everything run?",
        blocks=1,
        seconds=0.1,
        variants=("max@image", "softmax@image", "max@1d-16", "max@adaptive-13-7"),
    ),
    "quick": Preset(about="10 to 25 minutes on 2 cores", blocks=7, seconds=1),
}


def cells(
    preset: str,
    data_name: str | None = None,
    seeds: int | None = None,
    variants: Sequence[str] = (),
) -> list[Config]:
    """One cell for each case and op. More seeds measure again."""
    chosen = PRESETS[configs.choose("preset", preset, PRESETS)]
    name = configs.choose("data", data_name or "random", ["random", LARGE])
    if name == LARGE and not variants:
        variants = [name for name in chosen.variants if name in _variants(OPS, CASES)]
    smoke = {"one_example": True, "patience": 0.0, "tries": 1}
    how = smoke if preset == "smoke" else {"one_example": False}
    return configs.cells(Config, chosen, VARIANTS, data=name, seeds=seeds, variants=variants, **how)


def _parts(variant: str) -> tuple[str, Case]:
    op, case = variant.split("@")
    return op, EVERY[case]


# ---- the clock ----


def work(config: Config) -> int:
    """Blocks to time."""
    return config.blocks


def run(config: Config, tick: Callable[[int, float | None], None]) -> tuple[dict, dict]:
    """Time all contenders of one case: milliseconds per block."""
    from experiments import contenders, steps

    op, name = config.variant.split("@")
    large = config.data == LARGE
    what = steps.STEPS[name] if op == "step" else EVERY[name].large() if large else EVERY[name]
    shape = (1, *what.shape[1:]) if config.one_example else what.shape
    x = np.random.default_rng(config.seed).standard_normal(shape, np.float32)
    if isinstance(what, steps.Step):
        runs, facts, seconds = steps.contenders(what, x), {}, config.longer * config.seconds
    else:
        (runs, facts), seconds = contenders.contenders(op, what, x), config.seconds
        if not large:  # two processes cannot both have a GPU's memory
            times = 1 if config.one_example else 3
            compiled = _elsewhere().submit(contenders.compile_seconds, op, what, shape, times)
            facts["compile_seconds"], facts["compile_sum_seconds"] = compiled.result()
    facts["pulse"], times = _quietest(runs, config, seconds, tick)
    calls = 1 if isinstance(what, steps.Step) else what.together
    return {name.replace("/", "|"): np.array(ms) / calls for name, ms in times.items()}, facts


@cache
def _elsewhere() -> ProcessPoolExecutor:
    """A process whose memory is as any has it: after `prepare` the threads of a compiler wait for
    each other, which takes a third longer."""
    return ProcessPoolExecutor(
        1, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN)
    )


def prepare() -> None:
    """Keep memory that is free again, where the C library can be told to (glibc).

    Otherwise a large result may be given back to the operating system and fetched anew, page by
    page, on every call: which of the contenders that hits, for 5 ms in 25 MB, is decided by what
    was allocated before. Threads that there are already keep arenas of their own.
    """
    trim_threshold, mmap_max, arena_max = -1, -4, -8  # M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX
    with suppress(AttributeError, OSError):
        tell = ctypes.CDLL(None).mallopt
        tell(trim_threshold, 2**30)
        tell(mmap_max, 0)
        tell(arena_max, 1)  # that of a thread holds 64 MB: larger results would be mapped after all


def _quietest(
    runs: Runs, config: Config, seconds: float, tick: Callable[[int, float | None], None]
) -> tuple[float, dict[str, list[float]]]:
    """How quiet it was, and the times: of the first quiet try, or of the quietest."""
    tries = []

    def told(work: int, loss: float | None) -> None:  # no more work than was announced
        tick(0 if tries else work, loss)

    for _ in range(config.tries):
        pulse = Pulse(config.patience)
        times = _times(runs, config, seconds, pulse.wait, told)
        tries.append((float(np.median(pulse.seen)), times))
        if tries[-1][0] <= QUIET:
            break
    return min(tries, key=lambda each: each[0])


def _times(
    runs: Runs,
    config: Config,
    seconds: float,
    wait: Callable[[], None],
    tick: Callable[[int, float | None], None],
) -> dict[str, list[float]]:
    """The best call of every block, in milliseconds."""
    spent = {name: _clock(once) for name, once in runs.items()}
    times = {name: [1e3 * took] if took > seconds else [] for name, took in spent.items()}
    for _ in range(config.blocks):
        wait()
        for name, once in runs.items():
            if spent[name] > seconds:
                continue
            if isinstance(once, Placed):
                once.move()
            warm = _clock(once)
            short = warm < seconds / 8
            took = [_clock(once)]
            while short and (len(took) < config.calls or sum(took) < config.least):
                took.append(_clock(once))
            spent[name] += warm + sum(took)
            times[name].append(1e3 * min(took))
        tick(1, None)
    return times


def _clock(once: Callable[[], Any]) -> float:
    start = time.perf_counter()
    once()
    return time.perf_counter() - start


# ---- the numbers ----


def milliseconds(cell: Cell) -> dict[str, float]:
    """The median over the blocks of every contender, and the better one of two of a kind."""
    found = {name.replace("|", "/"): float(np.median(ms)) for name, ms in cell.arrays.items()}
    for name, ms in list(found.items()):
        # torch, channels last/value: one of two forms of torch/value.
        form, _, kind = name.partition("/")
        whole = f"{form.partition(',')[0]}/{kind}"
        found[whole] = min(ms, found.get(whole, ms))
    return found


OTHERS = ("floor", "flax", "equinox", "torch", "max", "avg", "uniform", "unmasked", "short")


def numbers(cell: Cell) -> dict[str, float]:
    """All that is known of a pooling; NaN where a library is not there."""
    ms = milliseconds(cell)
    found = {f"{kind}_ms": ms[f"jaxpool/{kind}"] for kind in ("value", "gradient")}
    for other in OTHERS:
        for kind in ("value", "gradient"):
            theirs = ms.get(f"{other}/{kind}", float("nan"))
            found[f"{kind}_to_{other}"] = ms[f"jaxpool/{kind}"] / theirs
    size = cell.facts["input_bytes"]
    found["kept"] = cell.facts["kept_bytes"] / size
    found["temporary"] = cell.facts["temporary_bytes"] / size
    found["compile_s"] = cell.facts["compile_seconds"]
    of_sum = cell.facts.get("compile_sum_seconds", float("nan"))
    found["compile_sum"] = of_sum / found["compile_s"]
    found["pulse"] = cell.facts["pulse"]
    return found


def step_numbers(cell: Cell) -> dict[str, float]:
    """All that is known of a training step: `none` is what it takes without pooling.

    NaN where there is no PyTorch, or none of this net.
    """
    from experiments import steps

    ms = {name.removesuffix("/step"): value for name, value in milliseconds(cell).items()}
    shape = steps.STEPS[cell.variant.removeprefix("step@")].shape
    images = 1 if cell.config["one_example"] else shape[0]
    torch = ms.get("torch", float("nan"))
    return {f"{name}_ms": ms[name] for name in ("jaxpool", "flax", "none")} | {
        "faster": ms["flax"] / ms["jaxpool"],
        "ceiling": ms["flax"] / ms["none"],
        "share": 1 - ms["none"] / ms["jaxpool"],
        "share_flax": 1 - ms["none"] / ms["flax"],
        "images": 1e3 * images / ms["jaxpool"],
        "images_torch": 1e3 * images / torch,
        "to_torch": ms["jaxpool"] / torch,
        "pulse": cell.facts["pulse"],
    }


def promises(op: str, case: Case) -> dict[str, float]:
    """The most bytes per input byte, of float32: kept for the backward pass, and temporary."""
    if case.bins or op in ZOO:
        return {}
    if op in SMOOTH:
        return {"temporary": 4}
    if case.masked:  # which is kept, and how many are real
        return {"temporary": 1.5 if case.small else 4}
    kept = 0.0 if op in ("avg", "sum") else 0.25 if min(case.strides) > 1 else 0.5
    return {"kept": kept, "temporary": 1.5 if case.small else 4}


CONSTANTS = 0.001
"""The counts of an average are one number per window, the same for all examples and channels."""


def check(cell: Cell) -> list[str]:
    """The memory that a pooling needs and keeps is no more than promised."""
    if cell.variant.startswith("step") or cell.config["data"] == LARGE:
        return []
    op, case = _parts(cell.variant)
    if case.dtype != "float32":
        return []
    seen = numbers(cell)
    return [
        f"{seen[key]:.2f} bytes are {key} per input byte, more than {most}"
        for key, most in promises(op, case).items()
        if seen[key] > most + CONSTANTS
    ]


# ---- the report ----


def _two_digits(values: np.ndarray) -> str:
    return "" if np.isnan(values).any() else f"{np.mean(values):.2f}"


def _whole(values: np.ndarray) -> str:
    return "" if np.isnan(values).any() else f"{np.mean(values):,.0f}"


def _column(key: str, title: str, meaning: str) -> Column:
    return Column(key, title, meaning, show=_two_digits)


PULSE = _column(
    "pulse",
    "pulse",
    "What a fixed computation took between the blocks, over the least it ever took: far above 1, "
    "the machine was not quiet.",
)


def _columns(**others: str) -> tuple[Column, ...]:
    """Times, over those of others; memory; compile time."""
    return (
        _column("value_ms", "ms", "Milliseconds of one call, the result alone."),
        _column("gradient_ms", "ms, +grad", "Value and gradient in one program."),
        *(
            _column(
                f"{kind}_to_{other}",
                f"{short} {other}",
                f"Time of jaxpool over that of {meaning}, {what}: below 1 is faster.",
            )
            for other, meaning in others.items()
            for kind, short, what in (
                ("value", "/", "value alone"),
                ("gradient", "+grad /", "value and gradient"),
            )
        ),
        _column("kept", "kept", "Bytes kept for the backward pass per input byte."),
        _column("temporary", "temp", "Temporary bytes per input byte, value and gradient."),
        _column(
            "compile_s",
            "compile",
            "Seconds to compile value and gradient: the median of three times in a process of its "
            "own, or, of large arrays, once in this one.",
        ),
        _column(
            "compile_sum",
            "sum / compile",
            "The same for the gradient of a sum, where XLA knows the cotangent, over that: far "
            "above 1, it computed with it.",
        ),
        PULSE,
    )


COLUMNS = _columns(floor="floor", flax="flax", torch="torch")
ADAPTIVE_COLUMNS = _columns(floor="floor", uniform="as many uniform windows", torch="torch")
MASKED_COLUMNS = _columns(floor="floor", unmasked="the same without a mask")
ZOO_COLUMNS = _columns(floor="floor", max="max", avg="avg")
STEP_COLUMNS = (
    _column("jaxpool_ms", "ms", "Milliseconds of one training step, with jaxpool."),
    _column("flax_ms", "ms, flax", "With Flax's pooling, everything else equal."),
    _column(
        "none_ms",
        "ms, none",
        "Without pooling: every second pixel, or the first quarter of the image.",
    ),
    _column("faster", "times faster", "Time with Flax's pooling over that with jaxpool."),
    _column("ceiling", "ceiling", "Times faster than with Flax if pooling took no time."),
    Column("share_flax", "% flax", "Share of the step that Flax's pooling takes."),
    Column("share", "% jaxpool", "Share of the step that jaxpool's pooling takes."),
    Column("images", "images/s", "Images per second, with jaxpool.", show=_whole),
    Column("images_torch", "images/s, torch", "The same net, all in PyTorch.", show=_whole),
    _column("to_torch", "/ torch", "Time with jaxpool over that of PyTorch: below 1 is faster."),
    PULSE,
)


def section(found: Sequence[Cell]) -> Section:
    """Tables, bars, and the lines of the sweep."""
    tables = {"": CASES, "forms": FORMS, "masked": MASKED, "adaptive": ADAPTIVE, "sweep": SWEEP}
    rows = {name: _rows(found, PLAIN, cases) for name, cases in tables.items()}
    rows["zoo"] = _rows(found, ZOO, APART)
    steps = _step_rows(found)
    sheets = [
        Sheet("", "The cases", COLUMNS, rows[""], unit=""),
        Sheet("forms", "16 bits, and channels first", COLUMNS, rows["forms"], unit=""),
        Sheet(
            "masked", "With a mask, the same for all channels", MASKED_COLUMNS, rows["masked"], ""
        ),
        Sheet("zoo", "Other poolings, beside max and average", ZOO_COLUMNS, rows["zoo"], unit=""),
        Sheet("adaptive", "Adaptive pooling", ADAPTIVE_COLUMNS, rows["adaptive"], unit=""),
        Sheet("steps", "A training step", STEP_COLUMNS, steps, unit=""),
        Sheet("sweep", "Windows of every size", COLUMNS, rows["sweep"], "", on_terminal=False),
    ]
    large = any(cell.config["data"] == LARGE for cell in found)
    pictures = [_against(rows[""]), _smooth(rows[""]), _lines(rows["sweep"])]
    return Section(
        question=QUESTION,
        answer=_answer(rows[""], steps),
        pictures=[picture for picture in pictures if picture],
        sheets=[sheet for sheet in sheets if sheet.rows],
        size=f"float32, channels last, unless said; {seeds_of(found)}, of each the median over "
        "blocks of the best of three.",
        claims=[] if large else _claims([row for some in rows.values() for row in some], steps),
        method=[
            text.replace("\n", " ") for text in str(__doc__).replace("*", "").split("\n\n")[2:4]
        ],
    )


def _rows(found: Sequence[Cell], ops: Collection[str], cases: Mapping[str, Case]) -> list[Row]:
    wanted = _variants(ops, cases)
    names = [name for name in VARIANTS if name in wanted]
    titles = {name: "{}, {}".format(*_titles(name)) for name in names}
    return by_variant(found, titles, numbers)


def _titles(variant: str) -> tuple[str, str]:
    op, case = _parts(variant)
    return op, case.title


def _step_rows(found: Sequence[Cell]) -> list[Row]:
    from experiments import steps

    titles = {f"step@{name}": steps.STEPS[name].title for name in STEPS}
    return by_variant(found, titles, step_numbers)


# ---- what it aims at ----


def _of(rows: Sequence[Row], ops: Collection[str], cases: Mapping[str, Case]) -> list[Row]:
    wanted = _variants(ops, cases)
    return [row for row in rows if row.variant in wanted]


def _variants(ops: Collection[str], cases: Mapping[str, Case]) -> set[str]:
    return {f"{op}@{case}" for op in ops for case in cases}


def _known(rows: Sequence[Row], key: str) -> dict[str, float]:
    """Title -> value, of the rows that have it."""
    means = {row.title: float(row.values[key].mean()) for row in rows}
    return {title: mean for title, mean in means.items() if mean == mean}


def _mean(rows: Sequence[Row], key: str) -> float:
    """The geometric mean over rows; NaN where nothing is known."""
    known = list(_known(rows, key).values())
    return float(np.exp(np.mean(np.log(known)))) if known else float("nan")


AIM = "this library's aim"


def _mean_at_most(expected: str, rows: Sequence[Row], key: str, most: float) -> list[Claim]:
    seen = _mean(rows, key)
    if seen != seen:
        return []
    observed = f"{seen:.2f}, the geometric mean of {len(_known(rows, key))}."
    return [Claim(expected, observed, seen <= most, AIM)]


def _each_at_most(expected: str, rows: Sequence[Row], key: str, most: float) -> list[Claim]:
    """A claim about every row, with the worst one named."""
    known = _known(rows, key)
    if not known:
        return []
    worst = max(known, key=lambda title: known[title])
    above = sum(value > most for value in known.values())
    observed = f"at worst {known[worst]:.2f} ({worst}); {above} of {len(known)} are above."
    return [Claim(expected, observed, not above, AIM)]


def _both_at_most(
    what: str, base: str, rows: Sequence[Row], other: str, most: float
) -> list[Claim]:
    """Claims about value alone, and with its gradient, beside another that was timed with it."""
    return [
        claim
        for kind, how in (("value", "alone"), ("gradient", "with gradient"))
        for claim in _each_at_most(
            f"{what}, {how}: at most {most} times {base}", rows, f"{kind}_to_{other}", most
        )
    ]


def _claims(rows: Sequence[Row], steps: Sequence[Row]) -> list[Claim]:
    """What jaxpool sets out to reach."""
    six, known = (_of(rows, ("max", "avg"), cases) for cases in (SIX, CASES))
    small = [row for row in known if _parts(row.variant)[1].small]
    long = _of(rows, ("max", "avg"), {name: case for name, case in SWEEP.items() if case.short})
    return [
        *_mean_at_most(
            "max and avg with gradient: at most 0.6 of PyTorch's time",
            six,
            "gradient_to_torch",
            0.6,
        ),
        *_each_at_most(
            "max and avg with gradient: never slower than PyTorch", six, "gradient_to_torch", 1
        ),
        *_mean_at_most(
            "max with gradient: at most 0.1 of Flax's time",
            _of(rows, ["max"], SIX),
            "gradient_to_flax",
            0.1,
        ),
        *_each_at_most("max and avg alone: never slower than Flax", known, "value_to_flax", 1),
        *_each_at_most(
            "max and avg alone, windows up to 3x3: at most 1.5 times the floor",
            small,
            "value_to_floor",
            1.5,
        ),
        *_each_at_most(
            "log-sum-exp and softmax with gradient: at most 4 times max",
            _of(rows, SMOOTH, CASES),
            "gradient_to_max",
            4,
        ),
        *(
            claim
            for op, beside in ZOO.items()
            if beside.most < float("inf")
            for claim in _each_at_most(
                f"{op} with gradient: at most {beside.most} times {beside.base}",
                _of(rows, [op], APART),
                f"gradient_to_{beside.base}",
                beside.most,
            )
        ),
        *_both_at_most("with a mask", "without one", _of(rows, OPS, MASKED), "unmasked", 1.5),
        *_adaptive(rows),
        *_memory(rows),
        *_each_at_most("value and gradient compile in 2 seconds", rows, "compile_s", 2),
        *_each_at_most(
            "the gradient of a sum compiles in at most 3 times that", rows, "compile_sum", 3
        ),
        *_both_at_most(f"a 1-D window of {LONG:,}", f"one of {SHORT}", long, "short", 3),
        *(claim for row in steps for claim in _step_claim(row)),
    ]


def _adaptive(rows: Sequence[Row]) -> list[Claim]:
    """Adaptive pooling beside uniform windows, where these are its bins and elsewhere."""
    claims = []
    for divides, where, most in ((True, "output divides", 1.5), (False, "elsewhere", 4)):
        cases = {name: case for name, case in ADAPTIVE.items() if case.divides == divides}
        of = _of(rows, OPS, cases)
        claims += _both_at_most(f"adaptive, {where}", "uniform windows", of, "uniform", most)
    return claims


def _memory(rows: Sequence[Row]) -> list[Claim]:
    """The promises of memory, one claim for each number that is promised."""
    groups: dict[tuple[str, str, float], list[Row]] = {}
    for row in rows:
        op, case = _parts(row.variant)
        if case.dtype == "float32":
            for key, most in promises(op, case).items():
                groups.setdefault((key, _whose(op, case, key), most), []).append(row)
    return [
        claim
        for (key, whose, most), of in sorted(groups.items(), key=lambda item: item[0])
        for claim in _each_at_most(
            f"{whose}: at most {most:g} bytes {key} per input byte", of, key, most + CONSTANTS
        )
    ]


def _whose(op: str, case: Case, key: str) -> str:
    """The poolings that a promise of memory is about."""
    if op in SMOOTH:
        return "log-sum-exp and softmax"
    if key == "temporary":
        return "others, " + ("windows up to 3x3" if case.small else "larger windows")
    if op in ("avg", "sum"):
        return "avg and sum"
    return "max and min, " + ("larger strides" if min(case.strides) > 1 else "stride 1")


def _step_claim(row: Row) -> list[Claim]:
    """LeNet has an aim; with every step, its ceiling is said."""
    faster, ceiling = (row.values[key].mean() for key in ("faster", "ceiling"))
    most = f"{ceiling:.2f} if pooling took no time"
    if faster > ceiling:
        most = f"no slower, within the noise, than without pooling ({ceiling:.2f})"
    observed = f"{faster:.2f} times; {most}."
    if row.variant == "step@lenet":
        expected = "a training step of LeNet is 1.3 times faster than with Flax's pooling"
        return [Claim(expected, observed, bool(faster >= 1.3), AIM)]
    expected = f"a training step of {row.title} is faster than with Flax's pooling"
    return [Claim(expected, observed, bool(faster > 1), AIM)]


def _answer(rows: Sequence[Row], steps: Sequence[Row]) -> str:
    """One or two sentences, from the numbers."""
    said = []
    for op in ("max", "avg"):
        of = _of(rows, [op], SIX)
        flax, torch = (_mean(of, f"gradient_to_{other}") for other in ("flax", "torch"))
        if flax == flax:
            more = f" and {1 / torch:.1f} times as fast as PyTorch's" if torch == torch else ""
            said.append(f"{op} pooling is {1 / flax:.1f} times as fast as Flax's{more}")
    answer = ""
    if said:
        n = len({row.variant.split("@")[1] for row in _of(rows, ["max", "avg"], SIX)})
        means = f"geometric means over {n} cases of images" if n > 1 else "one case of images"
        answer = f"With its gradient, {'; '.join(said)} ({means})."
    for row in steps:
        faster = row.values["faster"].mean()
        torch = row.values["to_torch"].mean()
        more = f", and {1 / torch:.2f} times as fast as in PyTorch" if torch == torch else ""
        answer += (
            f" A training step of {row.title} is {faster:.2f} times as fast as with Flax's{more}."
        )
    return answer.strip()


# ---- the pictures ----

LIBRARIES = {"jaxpool": 0, "torch": 1, "equinox": 2, "flax": 3}  # and their colours


def _over_floor(row: Row, name: str, kind: str) -> float:
    """The time of jaxpool or of another over the floor; NaN where it was not measured."""
    ours = row.values[f"{kind}_to_floor"]
    other = 1.0 if name == "jaxpool" else row.values[f"{kind}_to_{name}"]
    return float((ours / other).mean())


def _only_known(ratios: Mapping[str, float]) -> dict[str, float]:
    return {name: ratio for name, ratio in ratios.items() if ratio == ratio}


def _against(rows: Sequence[Row]) -> Picture | None:
    panels = {
        f"{op} pooling": {
            _parts(row.variant)[1].title: _only_known(
                {name: _over_floor(row, name, "gradient") for name in LIBRARIES}
            )
            for row in _of(rows, [op], CASES)
        }
        for op in ("max", "avg")
    }
    return _bars(
        "bars",
        "Max and average pooling: time of value and gradient over the floor",
        panels,
    )


def _smooth(rows: Sequence[Row]) -> Picture | None:
    groups: dict[str, dict[str, float]] = {}
    for row in _of(rows, SMOOTH, CASES):
        op, case = _parts(row.variant)
        group = groups.setdefault(case.title, {"max": _over_floor(row, "max", "gradient")})
        group[op] = _over_floor(row, "jaxpool", "gradient")
    return _bars(
        "smooth",
        "Log-sum-exp and softmax pooling beside max: time of value and gradient over the floor",
        {"": groups},
    )


AXIS = "time over the floor, value and gradient"
CAPTION = "1 is an elementwise operation that reads and writes the same bytes. Logarithmic."


def _bars(
    name: str, alt: str, panels: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> Picture | None:
    known = {title: groups for title, groups in panels.items() if groups}

    def draw(narrow: bool) -> Any:
        from experiments import figures

        return figures.bars(
            known, AXIS, LIBRARIES | {"max": 0, "lse": 4, "softmax": 5}, narrow=narrow
        )

    return Picture(name, alt, CAPTION, draw) if known else None


def _lines(rows: Sequence[Row]) -> Picture | None:
    panels: dict[str, dict[tuple[str, str], tuple[list[int], list[float]]]] = {}
    for row in rows:
        op, case = _parts(row.variant)
        for kind, what in (("value", "value"), ("gradient", "value and gradient")):
            lines = panels.setdefault(f"{len(case.window)}-D, {what}", {})
            for name in ("jaxpool", "flax"):
                ratio = _over_floor(row, name, kind)
                if ratio == ratio:
                    at, ratios = lines.setdefault((name, op), ([], []))
                    at.append(case.window[0])
                    ratios.append(ratio)

    def draw(narrow: bool) -> Any:
        from experiments import figures

        x, y = "side of the window", "time over the floor"
        return figures.sweep(panels, x, y, LIBRARIES, narrow=narrow)

    alt = "Time over the floor for windows of every size"
    return Picture("sweep", alt, f"Stride 1. {CAPTION}", draw) if panels else None
