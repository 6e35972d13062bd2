"""jaxpool: pooling for JAX, correct and fast under differentiation.

A pooling is a geometry times a reduction, applied one axis at a time. The functions here are pure:
they jit, vmap and differentiate to any order. `jaxpool.linen` and `jaxpool.nnx` hold the same ones
as Flax modules; nothing here imports Flax.
"""

# max and min
# sums and averages
from jaxpool._average import avg_pool as avg_pool
from jaxpool._average import global_avg_pool as global_avg_pool
from jaxpool._average import global_sum_pool as global_sum_pool
from jaxpool._average import sum_pool as sum_pool
from jaxpool._extrema import global_max_pool as global_max_pool
from jaxpool._extrema import global_min_pool as global_min_pool
from jaxpool._extrema import max_pool as max_pool
from jaxpool._extrema import min_pool as min_pool

# shapes
from jaxpool._geometry import output_shape as output_shape

# between average and max
from jaxpool._softmax import global_lse_pool as global_lse_pool
from jaxpool._softmax import global_softmax_pool as global_softmax_pool
from jaxpool._softmax import lse_pool as lse_pool
from jaxpool._softmax import softmax_pool as softmax_pool

__version__ = "0.1.0"

__all__ = [
    "avg_pool",
    "global_avg_pool",
    "global_lse_pool",
    "global_max_pool",
    "global_min_pool",
    "global_softmax_pool",
    "global_sum_pool",
    "lse_pool",
    "max_pool",
    "min_pool",
    "output_shape",
    "softmax_pool",
    "sum_pool",
]
