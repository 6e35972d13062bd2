"""Experiments: what does each pooling do to translation invariance, and what does it cost?

    python -m experiments list                               what there is to run
    python -m experiments run consistency --preset quick     train and measure; resumes by itself
    python -m experiments report                             tables, pictures, one HTML page
    python -m experiments check                              exact statements, on what is stored

One table per kind of thing, so that a further one is a row or a file:

- an experiment: a file like `consistency.py`, and a row in `EXPERIMENTS` below;
- a variant (a pooling, or what stands in its place): a row in `nets.VARIANTS`;
- a data set: a loader and a row in `data.SOURCES`;
- a preset: a row in the experiment's `PRESETS`.

From a configuration to a page: `config` says what a cell is, `runner` decides which cells are still
to do, the experiment measures one (`nets`, `train`, `shifts`), `store` keeps raw predictions,
`metrics` turns them into numbers, `stats` compares these, `report` and `figures` show them.
"""

EXPERIMENTS = {
    "augmentation": "experiments.augmentation",
    "consistency": "experiments.consistency",
    "continuum": "experiments.continuum",
    "equivariance": "experiments.equivariance",
    "separability": "experiments.separability",
    "speed": "experiments.speed",
}
"""Name -> module. The modules are imported when they are asked for: they load JAX."""
