"""What is timed against what: one pooling of one case, by every library that has it.

A contender is named `library/what`: `flax/gradient` is value and gradient, in one program, by Flax.
Optional libraries are left out where they are not installed.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from math import inf, prod
from statistics import median
from typing import Any, NamedTuple

import numpy as np

Run = Callable[[], Any]  # returns when the result is there; one that is `Placed` can be moved
Runs = dict[str, Run]

SMOOTH = ("lse", "softmax")  # which no other library has


class Beside(NamedTuple):
    """A pooling of jaxpool alone: its cost is told in that of a plain one of the same windows."""

    base: str
    most: float  # times the base's time, value and gradient, is the aim
    call: Callable[["Case"], tuple[str, tuple[Any, ...], dict[str, Any]]]


ZOO = {
    "blur": Beside("avg", 2, lambda c: ("blur_pool", (c.strides,), {"filter_size": c.window})),
    "max_blur": Beside("max", 3, lambda c: ("max_blur_pool", (c.window, c.strides), {})),
    "polyphase": Beside("avg", 2, lambda c: ("polyphase_pool", (c.strides,), {})),
    "lp": Beside("avg", 4, lambda c: ("lp_pool", c.windows, {"p": 2.0})),
    "lp3": Beside("avg", 4, lambda c: ("lp_pool", c.windows, {"p": 3.0})),
    "gem": Beside("avg", inf, lambda c: ("gem_pool", c.windows, {})),
    "mixed": Beside("max", inf, lambda c: ("mixed_pool", c.windows, {})),
    "stochastic": Beside("max", inf, lambda c: ("stochastic_pool", c.windows, {})),
}


# What GPUs are timed with: launching a program takes them longer than running it on less.
FILL, TOGETHER = 2**28, 20  # bytes, calls


@dataclass(frozen=True)
class Case:
    """Something that networks pool. The shape is written channels last."""

    title: str
    shape: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: int | str = 0
    dtype: str = "float32"
    channels_first: bool = False
    against: tuple[str, ...] = ("flax", "equinox", "torch")
    bins: tuple[int, ...] = ()  # pooled adaptively into these, beside the uniform windows above
    masked: bool = False  # four of five elements are real, beside all of them
    short: tuple[int, ...] = ()  # a smaller window of the same padding and strides, beside it
    together: int = 1  # so many calls are made before the last one is waited for

    @property
    def windows(self) -> tuple[Any, ...]:
        """What a pooling with windows takes after x."""
        return self.window, self.strides, self.padding

    def call(self, op: str) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        """The pooling by its name, and what it takes after x."""
        if self.bins:
            return f"adaptive_{op}_pool", (self.bins,), {}
        return ZOO[op].call(self) if op in ZOO else (f"{op}_pool", self.windows, {})

    def large(self) -> "Case":
        """As many examples as no cache holds, in calls that need not wait for each other."""
        n = -(-FILL // (4 * prod(self.shape)))
        return replace(self, shape=(n * self.shape[0], *self.shape[1:]), together=TOGETHER)

    @property
    def divides(self) -> bool:
        """All bins are alike and share no element."""
        return all(n % o == 0 for n, o in zip(self.shape[1:], self.bins, strict=False))

    @property
    def small(self) -> bool:
        """No side of the window is longer than 3."""
        return max(self.window) <= 3


# The six cases for which there are aims against other libraries, and what else networks pool.
SIX = {
    "stem": Case("stem 3x3 s2", (8, 112, 112, 64), (3, 3), (2, 2), 1),
    "vgg": Case("VGG 2x2 s2", (8, 56, 56, 192), (2, 2), (2, 2)),
    "inception": Case("Inception 3x3 s1", (8, 28, 28, 256), (3, 3), (1, 1), 1),
    "pyramid": Case("SPP 11x11 s1", (2, 40, 40, 256), (11, 11), (1, 1), 5),
    "image": Case("image 2x2 s2", (32, 128, 128, 3), (2, 2), (2, 2)),
    "global": Case("global 8x8", (64, 8, 8, 1024), (8, 8), (8, 8)),
}
CASES = SIX | {
    # 25 ms of every 10 at 16,000 Hz, and at 44,100.
    "audio": Case("audio 400 s160", (16, 160_000, 8), (400,), (160,)),
    "music": Case("audio 1102 s441", (16, 160_000, 8), (1102,), (441,)),
    # Without padding, of a map that strides do not divide.
    "alexnet": Case("AlexNet 3x3 s2", (8, 55, 55, 96), (3, 3), (2, 2)),
    "tokens": Case("197 tokens", (64, 197, 384), (197,), (197,)),
    "volume2": Case("volume 2x2x2 s2", (2, 64, 64, 64, 16), (2, 2, 2), (2, 2, 2)),
    "volume3": Case("volume 3x3x3 s2", (2, 64, 64, 64, 16), (3, 3, 3), (2, 2, 2), 1),
}


def _forms() -> Iterator[tuple[str, Case]]:
    """Two of the cases in 16 bits, and channels first."""
    for name in ("stem", "inception"):
        case = SIX[name]
        for dtype in ("bfloat16", "float16"):
            title = f"{case.title}, {dtype}"
            yield f"{name}-{dtype}", replace(case, title=title, dtype=dtype)
        title = f"{case.title}, channels first"
        yield f"{name}-first", replace(case, title=title, channels_first=True)


FORMS = dict(_forms())
MASKED = {
    f"{name}-masked": replace(case, title=f"{case.title}, masked", masked=True, against=())
    for name, case in CASES.items()
    if name in ("vgg", "inception", "image", "audio", "tokens")
}

# Windows of every size, powers of two and others, slide with stride 1.
SIDES = (2, 3, 5, 8, 16, 31, 64, 127, 256)
LONG, SHORT = 1024, 16  # what the one costs is told in what the other does
LINES = {"1d": ((8, 4096, 16), (*SIDES, LONG)), "2d": ((1, 288, 288, 16), SIDES)}

# Where each window is folded by itself, more taps than these take longer than there is time.
MOST_TAPS = 600_000_000


def _sweep() -> Iterator[tuple[str, Case]]:
    for line, (shape, sides) in LINES.items():
        axes = len(shape) - 2
        for side in sides:
            against = ("flax",) if prod(shape) * side**axes <= MOST_TAPS else ()
            title = f"{'x'.join([str(side)] * axes)} s1"
            window, strides = (side,) * axes, (1,) * axes
            short = (SHORT,) * axes if side == LONG else ()
            case = Case(title, shape, window, strides, "SAME", against=against, short=short)
            yield f"{line}-{side}", case


SWEEP = dict(_sweep())

# Adaptive pooling: the first two outputs divide their inputs.
BINS = (
    ((2, 224, 224, 64), (7, 7)),
    ((8, 56, 56, 64), (14, 14)),
    ((8, 28, 28, 128), (13, 13)),
    ((8, 37, 53, 64), (29, 31)),
    ((16, 13, 13, 256), (7, 7)),
)


def _adaptive() -> Iterator[tuple[str, Case]]:
    for shape, bins in BINS:
        # The uniform windows that give as many outputs: strides rounded down, and windows that
        # reach the end. Where the output divides the input, they are the bins; elsewhere they are
        # longer (9x23 for 37x53 to 29x31), as none else cover the input.
        strides = tuple(n // o for n, o in zip(shape[1:-1], bins, strict=True))
        window = tuple(n - (o - 1) * s for n, o, s in zip(shape[1:-1], bins, strides, strict=True))
        title = "{}x{} to {}x{}".format(*shape[1:-1], *bins)
        case = Case(title, shape, window, strides, against=("torch",), bins=bins)
        yield f"adaptive-{shape[1]}-{bins[0]}", case


ADAPTIVE = dict(_adaptive())


def contenders(op: str, case: Case, x: np.ndarray) -> tuple[Runs, dict[str, Any]]:
    """Everyone who can pool x like this, compiled; and facts about jaxpool's program.

    What the others lack meets jaxpool's max or average; adaptive poolings meet its uniform ones,
    masked ones the same without a mask, and the longest window a short one.
    """
    values = _values(case, x)
    ours, facts = _jaxpool(op, case, values)
    moved = facts["input_bytes"] + facts["output_bytes"]
    runs = floor("value", moved // 2, case) | floor("gradient", moved, case) | ours
    if case.bins:
        runs |= _jaxpool(op, replace(case, bins=()), values, "uniform")[0]
    elif case.masked:
        runs |= _jaxpool(op, replace(case, masked=False), values, "unmasked")[0]
    elif case.short:
        runs |= _jaxpool(op, replace(case, window=case.short), values, "short")[0]
    elif op in SMOOTH or op in ZOO:
        base = ZOO[op].base if op in ZOO else "max"
        runs |= _jaxpool(base, case, values, base)[0]
    for name in () if op in ZOO else case.against:
        runs |= OTHERS[name](op, case, x)
    return runs, facts


def compile_seconds(op: str, case: Case, shape: tuple[int, ...], times: int) -> tuple[float, float]:
    """What compiling value and gradient takes in the process that this is called in, of a given
    cotangent, and of a sum, whose cotangent is a constant that XLA may compute with. The first is
    the median, since a moment that is not quiet doubles one of several times."""
    import jax
    import jax.numpy as jnp

    x = _values(case, np.zeros(shape, np.float32))
    f, data = _pooling(op, case, x)
    g = jnp.zeros_like(f(x, **data))

    def once(function: Callable, *args: Any) -> float:
        jax.clear_caches()
        return _compiled(function, *args, **data)[1]

    given = median(once(_with_gradient(f), x, g) for _ in range(times))
    return given, once(jax.value_and_grad(lambda x, **data: f(x, **data).sum()), x)


def _values(case: Case, x: np.ndarray) -> Any:
    import jax.numpy as jnp

    return jnp.asarray(np.moveaxis(x, -1, 1) if case.channels_first else x, case.dtype)


PIECE = 16 * 2**20


def floor(name: str, size: int, case: Case) -> Runs:
    """Read `size` bytes and write as many, in the simplest loop there is: what moving them takes
    (a little more where caches keep more of them for others).

    In pieces, each of which leaves its buffer to the next: more than 32 MB would be fetched from
    the operating system anew on every call, page by page. (Calls that are made together are for
    memory of another kind, and take all at once.)
    """
    import jax
    import jax.numpy as jnp

    counts = pieces(size) if case.together == 1 else [-(-size // 4)]
    arrays = [jnp.ones(floats, jnp.float32) for floats in counts]
    step = jax.jit(lambda a: a + 1).lower(arrays[0]).compile()

    def one_by_one(*arrays: jax.Array) -> None:
        for array in arrays:
            jax.block_until_ready(step(array))

    return {f"floor/{name}": placed(one_by_one if case.together == 1 else step, arrays, case)}


@dataclass
class Placed:
    """A call whose arguments can be laid elsewhere in memory: what the caches keep of them depends
    on where they lie, which decides about up to half of the time.

    It is made `together` times, and waited for once.
    """

    call: Callable[..., Any]
    arguments: Sequence[Any]
    copy: Callable[[Any], Any]
    wait: Callable[[Any], Any]
    together: int = 1

    def __call__(self) -> None:
        for _ in range(self.together - 1):
            self.call(*self.arguments)
        self.wait(self.call(*self.arguments))

    def move(self) -> None:
        """Lay the arguments where there is room now."""
        self.arguments = [self.copy(a) for a in self.arguments]


def placed(call: Callable[..., Any], arguments: Sequence[Any], case: Case) -> Placed:
    """A call of JAX, as often as the case makes it."""
    import jax
    import jax.numpy as jnp

    copy = partial(jax.tree.map, jnp.array)
    return Placed(call, arguments, copy, jax.block_until_ready, case.together)


def pieces(size: int) -> list[int]:
    """As many floats as fill `size` bytes, in equal pieces that are not too large."""
    count = -(-size // PIECE)
    return [-(-size // (4 * count))] * count


def _jaxpool(op: str, case: Case, x: Any, name: str = "jaxpool") -> tuple[Runs, dict[str, Any]]:
    import jax

    f, data = _pooling(op, case, x)
    runs, facts = _jitted(name, f, x, case, **data)
    kept = jax.tree.leaves(jax.eval_shape(lambda x: jax.vjp(partial(f, **data), x)[1], x))
    return runs, facts | {
        "input_bytes": x.nbytes,
        "kept_bytes": sum(a.size * a.dtype.itemsize for a in kept),
    }


def _pooling(op: str, case: Case, x: Any) -> tuple[Callable, dict[str, Any]]:
    """jaxpool's function of x and of data beside it, and that data."""
    import jax

    import jaxpool

    axis = tuple(range(2, x.ndim)) if case.channels_first else None
    called, arguments, options = case.call(op)
    pool = getattr(jaxpool, called)
    if op == "stochastic":
        pool = partial(pool, jax.random.key(0))

    data = {}
    if case.masked:
        data["where"] = jax.random.bernoulli(jax.random.key(0), 0.8, (*x.shape[:-1], 1))

    def f(x: jax.Array, **data: jax.Array) -> jax.Array:
        return pool(x, *arguments, axis=axis, **options, **data)

    return f, data


def _jitted(name: str, f: Callable, x: Any, case: Case, **data: Any) -> tuple[Runs, dict[str, Any]]:
    """A JAX function, alone and with its gradient by x, compiled for x and for `data` beside it."""
    value, _ = _compiled(f, x, **data)
    g = value(x, **data)
    gradient, seconds = _compiled(_with_gradient(f), x, g, **data)
    memory: Any = gradient.memory_analysis()
    facts = {
        "compile_seconds": seconds,
        "temporary_bytes": memory.temp_size_in_bytes,
        "output_bytes": g.nbytes,
    }
    return {
        f"{name}/value": placed(lambda x, data: value(x, **data), (x, data), case),
        f"{name}/gradient": placed(lambda x, g, data: gradient(x, g, **data), (x, g, data), case),
    }, facts


def _with_gradient(f: Callable) -> Callable:
    """The value of f and its gradient by x, from a given cotangent."""
    import jax

    def with_gradient(x: jax.Array, g: jax.Array, **data: Any) -> tuple[jax.Array, jax.Array]:
        y, back = jax.vjp(partial(f, **data), x)
        return y, back(g)[0]

    return with_gradient


def _compiled(function: Callable, *args: Any, **data: Any) -> tuple[Any, float]:
    """A function compiled, and how long that took."""
    import jax

    start = time.perf_counter()
    program = jax.jit(function).lower(*args, **data).compile()
    return program, time.perf_counter() - start


def _flax(op: str, case: Case, x: np.ndarray) -> Runs:
    """Flax pools channels last."""
    import jax.numpy as jnp
    from flax.linen import pooling

    pool = getattr(pooling, f"{op}_pool", None)
    if pool is None or case.channels_first:
        return {}
    p = case.padding
    padding = p if isinstance(p, str) else ((p, p),) * len(case.window)

    def f(x: Any) -> Any:
        return pool(x, case.window, case.strides, padding)

    return _jitted("flax", f, jnp.asarray(x, case.dtype), case)[0]


def _equinox(op: str, case: Case, x: np.ndarray) -> Runs:
    """Equinox pools channels first."""
    import jax
    import jax.numpy as jnp

    modules = optional("equinox.nn")
    kind = getattr(modules, f"{op.title()}Pool{len(case.window)}d", None)
    if kind is None:
        return {}
    pool = jax.vmap(kind(case.window, case.strides, case.padding))
    first = jnp.asarray(np.moveaxis(x, -1, 1), case.dtype)
    return _jitted("equinox", pool, first, case)[0]


def _torch(op: str, case: Case, x: np.ndarray) -> Runs:
    """PyTorch pools both layouts."""
    torch = optional("torch")
    name, arguments, _ = case.call(op)
    pool = torch and getattr(torch.nn.functional, f"{name}{len(case.window)}d", None)
    if pool is None:
        return {}
    device = _torch_device()
    last = torch.from_numpy(x).to(device, getattr(torch, case.dtype)).movedim(-1, 1)
    runs: Runs = {}
    for layout, a in {"first": last.contiguous(), "last": last}.items():
        calls = _torch_calls(pool, arguments, a.requires_grad_())
        for kind, (call, given) in calls.items():
            run = Placed(call, given, _torch_copy, _torch_wait, case.together)
            runs[f"torch, channels {layout}/{kind}"] = run
    return runs


def _torch_copy(a: Any) -> Any:
    return a.detach().clone().requires_grad_(a.requires_grad)


def _torch_device() -> str:
    """Where JAX computes."""
    import jax

    return "cuda" if jax.default_backend() == "gpu" else "cpu"


def _torch_wait(_: Any) -> None:
    if _torch_device() == "cuda":
        import_module("torch").cuda.synchronize()


def _torch_calls(pool: Callable, arguments: tuple[Any, ...], a: Any) -> dict[str, tuple]:
    """Value, and value with gradient: each a function and what it is called with."""
    torch = import_module("torch")

    def value(a: Any) -> Any:
        with torch.no_grad():
            return pool(a, *arguments)

    def gradient(a: Any, g: Any) -> Any:
        y = pool(a, *arguments)
        return y, torch.autograd.grad(y, a, g)

    return {"value": (value, (a,)), "gradient": (gradient, (a, torch.ones_like(value(a))))}


def optional(name: str) -> Any:
    """A module, or None where it is not installed."""
    try:
        return import_module(name)
    except ImportError:
        return None


OTHERS = {"flax": _flax, "equinox": _equinox, "torch": _torch}
