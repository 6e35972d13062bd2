"""jaxpool: pooling for JAX, correct and fast under differentiation.

A pooling is a geometry times a reduction, applied one axis at a time. The functions here are pure:
they jit, vmap and differentiate to any order. `jaxpool.linen` and `jaxpool.nnx` hold the same ones
as Flax modules; nothing here imports Flax.
"""

# a given output size
from jaxpool._adaptive import adaptive_avg_pool as adaptive_avg_pool
from jaxpool._adaptive import adaptive_lp_pool as adaptive_lp_pool
from jaxpool._adaptive import adaptive_lse_pool as adaptive_lse_pool
from jaxpool._adaptive import adaptive_max_pool as adaptive_max_pool
from jaxpool._adaptive import adaptive_min_pool as adaptive_min_pool
from jaxpool._adaptive import adaptive_softmax_pool as adaptive_softmax_pool
from jaxpool._adaptive import adaptive_sum_pool as adaptive_sum_pool

# sums and averages
from jaxpool._average import avg_pool as avg_pool
from jaxpool._average import global_avg_pool as global_avg_pool
from jaxpool._average import global_sum_pool as global_sum_pool
from jaxpool._average import sum_pool as sum_pool

# against aliasing
from jaxpool._blur import blur_pool as blur_pool
from jaxpool._blur import max_blur_pool as max_blur_pool

# max and min
from jaxpool._extrema import global_max_pool as global_max_pool
from jaxpool._extrema import global_min_pool as global_min_pool
from jaxpool._extrema import max_pool as max_pool
from jaxpool._extrema import min_pool as min_pool

# windows at random
from jaxpool._fractional import fractional_max_pool as fractional_max_pool

# where the winner was, and the way back
from jaxpool._indices import adaptive_max_pool_with_indices as adaptive_max_pool_with_indices
from jaxpool._indices import max_pool_with_indices as max_pool_with_indices
from jaxpool._indices import max_unpool as max_unpool
from jaxpool._indices import min_pool_with_indices as min_pool_with_indices

# maximum and average mixed
from jaxpool._mixed import mixed_pool as mixed_pool

# subsampling that shifts with the map
from jaxpool._polyphase import polyphase_pool as polyphase_pool
from jaxpool._polyphase import polyphase_unpool as polyphase_unpool

# between average and max of |x|
from jaxpool._power import gem_pool as gem_pool
from jaxpool._power import global_gem_pool as global_gem_pool
from jaxpool._power import global_lp_pool as global_lp_pool
from jaxpool._power import lp_pool as lp_pool

# several sizes at once
from jaxpool._pyramid import spatial_pyramid_pool as spatial_pyramid_pool

# shapes, and what a pooling sees and costs
from jaxpool._shapes import adaptive_output_shape as adaptive_output_shape
from jaxpool._shapes import fractional_output_shape as fractional_output_shape
from jaxpool._shapes import global_output_shape as global_output_shape
from jaxpool._shapes import output_shape as output_shape
from jaxpool._shapes import pooling_cost as pooling_cost
from jaxpool._shapes import pyramid_output_shape as pyramid_output_shape
from jaxpool._shapes import receptive_field as receptive_field

# between average and max
from jaxpool._softmax import global_lse_pool as global_lse_pool
from jaxpool._softmax import global_softmax_pool as global_softmax_pool
from jaxpool._softmax import lse_pool as lse_pool
from jaxpool._softmax import softmax_pool as softmax_pool

# elements at random
from jaxpool._stochastic import stochastic_pool as stochastic_pool

__version__ = "0.1.0"

__all__ = [
    "adaptive_avg_pool",
    "adaptive_lp_pool",
    "adaptive_lse_pool",
    "adaptive_max_pool",
    "adaptive_max_pool_with_indices",
    "adaptive_min_pool",
    "adaptive_output_shape",
    "adaptive_softmax_pool",
    "adaptive_sum_pool",
    "avg_pool",
    "blur_pool",
    "fractional_max_pool",
    "fractional_output_shape",
    "gem_pool",
    "global_avg_pool",
    "global_gem_pool",
    "global_lp_pool",
    "global_lse_pool",
    "global_max_pool",
    "global_min_pool",
    "global_output_shape",
    "global_softmax_pool",
    "global_sum_pool",
    "lp_pool",
    "lse_pool",
    "max_blur_pool",
    "max_pool",
    "max_pool_with_indices",
    "max_unpool",
    "min_pool",
    "min_pool_with_indices",
    "mixed_pool",
    "output_shape",
    "polyphase_pool",
    "polyphase_unpool",
    "pooling_cost",
    "pyramid_output_shape",
    "receptive_field",
    "softmax_pool",
    "spatial_pyramid_pool",
    "stochastic_pool",
    "sum_pool",
]
