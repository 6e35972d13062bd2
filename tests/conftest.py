"""Strict JAX and reproducible hypothesis for every test. JAX_ENABLE_X64=1 runs them all in float64.

JAXPOOL_EXAMPLES is the number of geometries that hypothesis draws per row (8 unless set).
"""

import gc
import os

import jax
import pytest
from hypothesis import HealthCheck, settings
from jax._src import compiler

# No silent promotion: a library that mixes dtypes or ranks by accident fails here.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Tracing makes many objects that live long, and says for each operation where it was written: a
# third of the time, for nothing here.
gc.set_threshold(200_000, 50, 1000)
jax.config.update("jax_traceback_in_locations_limit", 0)

settings.register_profile(
    "jaxpool",
    deadline=None,  # the first run of a geometry compiles
    derandomize=True,  # the same examples on every run and every worker
    print_blob=True,
    max_examples=int(os.environ.get("JAXPOOL_EXAMPLES", "8")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("jaxpool")


_options = compiler.get_compile_options
_quick = True


def _quick_options(*args, **kwargs):
    """Compile in half the time: without XLA's newer emitters of fusions, if they are optional, and
    a program as one piece, since the other tests need the other cores."""
    options = _options(*args, **kwargs)
    if _quick and jax.__version_info__ < (0, 11):
        options.env_option_overrides += [
            ("xla_cpu_use_fusion_emitters", False),
            ("xla_cpu_parallel_codegen_split_count", 1),
        ]
    return options


compiler.get_compile_options = _quick_options


@pytest.fixture(autouse=True)
def compilation(request):
    """Leave out XLA's and LLVM's expensive passes: most tests compile much and compute little.

    Tests marked `optimized` keep them: what those promise is about the machine code itself. They
    share no program with the others.
    """
    global _quick
    quick = request.node.get_closest_marker("optimized") is None
    if quick != _quick:
        jax.clear_caches()
    _quick = quick
    jax.config.update("jax_disable_most_optimizations", quick)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the rows of the contract that `make test64` leaves out."""
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        if getattr(params.get("op"), "alike", False):
            item.add_marker("alike")


@pytest.fixture
def memory_of():
    """What a program needs: that is planned before LLVM's passes, so they are left out."""
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return lambda lowered: lowered.compile(quick).memory_analysis()


@pytest.fixture
def usual_promotion():
    """What users have: not all of optax, Flax and Equinox is strict."""
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def command(monkeypatch):
    """The command line of the experiments, in this process."""
    from experiments.__main__ import main  # what the library is tested with does not have it

    def run(*words: object) -> None:
        monkeypatch.setattr("sys.argv", ["experiments", *map(str, words)])
        main()

    return run
