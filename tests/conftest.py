"""Strict JAX and reproducible hypothesis for every test. JAX_ENABLE_X64=1 runs them all in float64.

JAXPOOL_EXAMPLES is the number of geometries that hypothesis draws per row (8 unless set).
"""

import os

import jax
import pytest
from hypothesis import HealthCheck, settings

# No silent promotion: a library that mixes dtypes or ranks by accident fails here.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

settings.register_profile(
    "jaxpool",
    deadline=None,  # the first run of a geometry compiles
    derandomize=True,  # the same examples on every run and every worker
    print_blob=True,
    max_examples=int(os.environ.get("JAXPOOL_EXAMPLES", "8")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("jaxpool")


@pytest.fixture(autouse=True)
def compilation(request):
    """Leave out XLA's and LLVM's expensive passes: most tests compile much and compute little.

    Tests marked `optimized` keep them: what those promise is about the machine code itself.
    """
    quick = request.node.get_closest_marker("optimized") is None
    jax.config.update("jax_disable_most_optimizations", quick)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the rows of the contract that `make test64` leaves out."""
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        if getattr(params.get("op"), "alike", False):
            item.add_marker("alike")
