"""How long does each pooling take, forward and with its gradient, and what bounds it?

Command:  python -m experiments run speed      (with others to compare: pip install '.[speed]')
Time:     5 minutes on 2 cores
Result:   milliseconds of value, and of value and gradient; ratios to the floor, to Flax and to
          PyTorch; compile time, bytes kept for the backward pass, temporary bytes

All contenders of a case run in one process, by turns, in blocks: a warm call, then the best of
three; the median over the blocks counts. So each runs with its own buffers warm, and a slow moment
of the machine meets them all. PyTorch runs in both layouts, and the better one counts. The *floor*
is an elementwise operation that reads and writes the same bytes once: x and y for the value; x, y
and their gradients for the gradient.

The stored facts are held to: `check` fails where what is kept for the backward pass is larger than
promised.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from experiments import config as configs
from experiments.report import Claim, Column, Picture, Row, Section
from experiments.store import Cell

NAME = "speed"
QUESTION = "How long does each pooling take, forward and with its gradient?"
WORKERS = 1  # nothing else may run while a clock does


@dataclass(frozen=True)
class Case:
    """A shape that networks pool, channels last."""

    title: str
    shape: tuple[int, ...]
    window: int
    stride: int
    pad: int


CASES = {
    "stem": Case("stem 3x3 s2", (8, 112, 112, 64), 3, 2, 1),
    "vgg": Case("VGG 2x2 s2", (8, 56, 56, 192), 2, 2, 0),
    "inception": Case("Inception 3x3 s1", (8, 28, 28, 256), 3, 1, 1),
    "pyramid": Case("SPP 11x11 s1", (2, 40, 40, 256), 11, 1, 5),
    "image": Case("image 2x2 s2", (32, 128, 128, 3), 2, 2, 0),
    "global": Case("global 8x8", (64, 8, 8, 1024), 8, 8, 0),
}
OPS = ("max", "avg", "lse", "softmax")


@dataclass(frozen=True, kw_only=True)
class Config(configs.Config):
    """All that one measurement depends on; the variant, max@stem, says which op and which case."""

    experiment: str = NAME
    one_example: bool
    blocks: int
    calls: int = 3


def _parts(variant: str) -> tuple[str, Case]:
    op, case = variant.split("@")
    return op, CASES[case]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How often to measure."""

    about: str
    blocks: int


PRESETS = {
    "smoke": Preset(about="seconds: does everything run?", blocks=1),
    "quick": Preset(about="5 minutes on 2 cores", blocks=5),
}


def cells(
    preset: str,
    data_name: str | None = None,
    seeds: int | None = None,
    variants: Sequence[str] = (),
) -> list[Config]:
    """One cell for each case and op; a variant is written max@stem. More seeds measure again."""
    chosen = PRESETS[configs.choose("preset", preset, PRESETS)]
    name = configs.choose("data", data_name or "random", ["random"])
    every = [f"{op}@{case}" for case in CASES for op in OPS]
    names = [configs.choose("variant", variant, every) for variant in variants or every]
    count = configs.at_least("--seeds", 1 if seeds is None else seeds, 1)
    return [
        Config(
            data=name,
            variant=variant,
            seed=seed,
            one_example=preset == "smoke",
            blocks=chosen.blocks,
        )
        for seed in range(count)
        for variant in names
    ]


# ---- the contenders ----

Run = Callable[..., Any]  # called without arguments


def _contenders(op: str, case: Case, images: np.ndarray) -> tuple[dict[str, Run], dict[str, Any]]:
    """What is timed, by name: `library/value` and `library/gradient`; and facts about jaxpool's."""
    import jax
    import jax.numpy as jnp

    import jaxpool

    k, s, p = case.window, case.stride, case.pad
    x = jnp.asarray(images)

    def ours(x: jax.Array) -> jax.Array:
        return getattr(jaxpool, f"{op}_pool")(x, (k, k), s, p)

    runs, facts = {}, {}
    y = ours(x)
    runs["floor/value"] = _ready(jax.jit(lambda x, y: jnp.sum(x[:1, :1]) + y), x, y)
    functions: dict[str, Callable] = {"jaxpool": ours} | _flax(op, case)
    for name, f in functions.items():
        both = jax.jit(lambda x, g, f=f: _value_and_gradient(f, x, g))
        start = time.perf_counter()
        compiled = both.lower(x, y).compile()
        if name == "jaxpool":
            facts["compile_seconds"] = time.perf_counter() - start
            memory: Any = compiled.memory_analysis()
            facts["temporary_bytes"] = memory.temp_size_in_bytes
            kept = jax.eval_shape(lambda x: jax.vjp(ours, x)[1], x)
            facts["kept_bytes"] = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(kept))
        runs[f"{name}/value"] = _ready(jax.jit(f), x)
        runs[f"{name}/gradient"] = _ready(both, x, y)
    halves = jax.jit(lambda x, y: (x + 1, y + 1))
    runs["floor/gradient"] = _ready(halves, x, y)
    part = x.ravel()[: (x.size + y.size) // 2]
    runs["floor/value"] = _ready(jax.jit(lambda a: a + 1), part)
    facts["input_bytes"] = x.nbytes
    return runs | _equinox(op, case, x) | _torch(op, case, images), facts


def _ready(f: Callable, *args: Any) -> Run:
    import jax

    return lambda: jax.block_until_ready(f(*args))


def _value_and_gradient(f: Callable, x: Any, g: Any) -> tuple[Any, Any]:
    import jax

    y, back = jax.vjp(f, x)
    return y, back(g)[0]


def _flax(op: str, case: Case) -> dict[str, Callable]:
    from flax import linen as nn

    pool = {"max": nn.max_pool, "avg": nn.avg_pool}.get(op)
    if pool is None:
        return {}
    k, s, p = case.window, case.stride, case.pad
    return {"flax": lambda x: pool(x, (k, k), (s, s), ((p, p), (p, p)))}


def _equinox(op: str, case: Case, x: Any) -> dict[str, Run]:
    try:
        eqx = import_module("equinox")
    except ImportError:
        return {}
    import jax
    import jax.numpy as jnp

    kind = {"max": eqx.nn.MaxPool2d, "avg": eqx.nn.AvgPool2d}.get(op)
    if kind is None:
        return {}
    pool = jax.vmap(kind(case.window, case.stride, case.pad))
    first = jnp.moveaxis(x, -1, 1)
    g = pool(first)
    both = jax.jit(lambda x, g: _value_and_gradient(pool, x, g))
    return {
        "equinox/value": _ready(jax.jit(pool), first),
        "equinox/gradient": _ready(both, first, g),
    }


def _torch(op: str, case: Case, x: np.ndarray) -> dict[str, Run]:
    try:
        torch = import_module("torch")
    except ImportError:
        return {}
    F = torch.nn.functional
    pool = {"max": F.max_pool2d, "avg": F.avg_pool2d}.get(op)
    if pool is None:
        return {}
    runs = {}
    first = torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))
    layouts = {"first": torch.contiguous_format, "last": torch.channels_last}
    for layout, memory in layouts.items():
        a = first.contiguous(memory_format=memory).requires_grad_()

        def value(a: Any = a) -> Any:
            with torch.no_grad():
                return pool(a, case.window, case.stride, case.pad)

        g = torch.ones_like(value())

        def both(a: Any = a, g: Any = g) -> Any:
            y = pool(a, case.window, case.stride, case.pad)
            return y, torch.autograd.grad(y, a, g)

        runs[f"torch, channels {layout}/value"] = value
        runs[f"torch, channels {layout}/gradient"] = both
    return runs


def run(config: Config, tick: Callable[[int, float | None], None]) -> tuple[dict, dict]:
    """Time all contenders of one case: milliseconds per block."""
    op, case = _parts(config.variant)
    shape = (1, *case.shape[1:]) if config.one_example else case.shape
    x = np.random.default_rng(config.seed).normal(size=shape).astype(np.float32)
    runs, facts = _contenders(op, case, x)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(config.blocks):
        for name, once in runs.items():
            once()
            took = []
            for _ in range(config.calls):
                start = time.perf_counter()
                once()
                took.append(time.perf_counter() - start)
            times[name].append(1e3 * min(took))
        tick(1, None)
    return {name.replace("/", "|"): np.array(ms) for name, ms in times.items()}, facts


def work(config: Config) -> int:
    """Blocks to time."""
    return config.blocks


# ---- the report ----


def milliseconds(cell: Cell) -> dict[str, float]:
    """The median over the blocks of every contender; the better one of PyTorch's layouts."""
    found = {name.replace("|", "/"): float(np.median(ms)) for name, ms in cell.arrays.items()}
    for kind in ("value", "gradient"):
        layouts = [ms for name, ms in found.items() if name.startswith("torch") and kind in name]
        if layouts:
            found[f"torch/{kind}"] = min(layouts)
    return found


def numbers(cell: Cell) -> dict[str, float]:
    """All that the table shows of one cell; NaN where a library is not there."""
    ms = milliseconds(cell)
    found = {"value_ms": ms["jaxpool/value"], "gradient_ms": ms["jaxpool/gradient"]}
    for other in ("floor", "flax", "equinox", "torch"):
        for kind in ("value", "gradient"):
            theirs = ms.get(f"{other}/{kind}", float("nan"))
            found[f"{kind}_to_{other}"] = ms[f"jaxpool/{kind}"] / theirs
    size = cell.facts["input_bytes"]
    found["kept"] = cell.facts["kept_bytes"] / size
    found["temporary"] = cell.facts["temporary_bytes"] / size
    found["compile_s"] = cell.facts["compile_seconds"]
    return found


def check(cell: Cell) -> list[str]:
    """What is kept for the backward pass: nothing for averages, winners alone for max."""
    op, case = _parts(cell.variant)
    kept = cell.facts["kept_bytes"] / cell.facts["input_bytes"]
    most = {"avg": 0.001, "max": 0.25 if case.stride > 1 else 0.5}.get(op)
    if most is not None and kept > most:
        return [f"{kept:.2f} bytes are kept per input byte, more than {most}"]
    return []


def _times(values: np.ndarray) -> str:
    return "" if np.isnan(values).any() else f"{np.mean(values):.2f}"


COLUMNS = [
    Column("value_ms", "ms", "Milliseconds of one call, the result alone.", show=_times),
    Column("gradient_ms", "ms, +grad", "Value and gradient in one program.", show=_times),
    *(
        Column(
            f"{kind}_to_{other}",
            f"{short} {other}",
            f"Time of jaxpool over that of {other}, {what}: below 1 is faster.",
            show=_times,
        )
        for other in ("floor", "flax", "torch")
        for kind, short, what in (
            ("value", "/", "value alone"),
            ("gradient", "+grad /", "value and gradient"),
        )
    ),
    Column("kept", "kept", "Bytes kept for the backward pass per input byte.", show=_times),
    Column("temporary", "temp", "Temporary bytes per input byte.", show=_times),
    Column("compile_s", "compile", "Seconds to compile value and gradient.", show=_times),
]


def section(found: Sequence[Cell]) -> Section:
    """The table and the bars."""
    order = [f"{op}@{case}" for case in CASES for op in OPS]
    rows = []
    for variant in order:
        of = [numbers(cell) for cell in found if cell.variant == variant]
        if of:
            op, case = _parts(variant)
            values = {key: np.array([each[key] for each in of]) for key in of[0]}
            rows.append(Row(variant, f"{op}, {case.title}", values))
    return Section(
        question=QUESTION,
        answer=_answer(rows),
        pictures=[_bars(found)],
        columns=COLUMNS,
        rows=rows,
        size="float32, channels last; one process, median over blocks of the best of three.",
        claims=_claims(rows),
        method=[str(__doc__).split("\n\n")[2].replace("\n", " ").replace("*", "")],
        unit="",
    )


def _mean(rows: Sequence[Row], ops: Sequence[str], key: str) -> float:
    """The geometric mean over cases; NaN where a library is not there."""
    ratios = [row.values[key].mean() for row in rows if row.variant.split("@")[0] in ops]
    return float(np.exp(np.mean(np.log(ratios)))) if ratios else float("nan")


def _answer(rows: Sequence[Row]) -> str:
    said = []
    for op in ("max", "avg"):
        flax, torch = (_mean(rows, [op], f"gradient_to_{o}") for o in ("flax", "torch"))
        if flax == flax:
            more = f" and {1 / torch:.1f} times as fast as PyTorch" if torch == torch else ""
            said.append(f"{op} pooling is {1 / flax:.1f} times as fast as Flax{more}")
    return f"With its gradient, {'; '.join(said)} (geometric means over the cases)." if said else ""


def _claims(rows: Sequence[Row]) -> list[Claim]:
    """What jaxpool sets out to reach."""

    def claim(expected: str, seen: float, holds: bool) -> list[Claim]:
        known = seen == seen
        source = "this library's aim"
        return [Claim(expected, f"{seen:.2f}.", holds, source)] if known else []

    torch = _mean(rows, ["max", "avg"], "gradient_to_torch")
    flax = _mean(rows, ["max"], "gradient_to_flax")
    worst = max(
        (r.values["gradient_to_torch"].mean() for r in rows if r.variant[:3] in ("max", "avg")),
        default=float("nan"),
    )
    return [
        *claim("max and avg with gradient: at most 0.6 of PyTorch's time", torch, torch <= 0.6),
        *claim("max and avg with gradient: in no case slower than PyTorch", worst, worst <= 1),
        *claim("max with gradient: at most 0.1 of Flax's time", flax, flax <= 0.1),
    ]


def _bars(found: Sequence[Cell]) -> Picture:
    def draw(narrow: bool) -> Any:
        from experiments import figures

        panels = {}
        for op in ("max", "avg"):
            groups = {}
            for case, about in CASES.items():
                of = [milliseconds(c) for c in found if c.variant == f"{op}@{case}"]
                if of:
                    names = ("jaxpool", "torch", "equinox", "flax")
                    groups[about.title] = {
                        name: float(
                            np.mean([m[f"{name}/gradient"] / m["floor/gradient"] for m in of])
                        )
                        for name in names
                        if f"{name}/gradient" in of[0]
                    }
            if groups:
                panels[f"{op} pooling"] = groups
        return figures.bars(panels, "time over the floor, value and gradient", narrow=narrow)

    return Picture(
        name="bars",
        alt="Time of value and gradient over the floor",
        caption="1 is an elementwise operation that moves the same bytes. Logarithmic.",
        draw=draw,
    )
