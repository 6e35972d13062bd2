"""Experiments: what does each pooling do to translation invariance, and what does it cost?

    python -m experiments list                               what there is to run
    python -m experiments run consistency --preset quick     train and measure; resumes by itself
    python -m experiments run all --preset smoke             every experiment, one after the other
    python -m experiments report                             tables, pictures, one HTML page
    python -m experiments report all                         one page over all experiments
    python -m experiments check                              exact statements, on what is stored

One table per kind of thing, so that a further one is a row or a file:

- an experiment: a file like `consistency.py`, and a row in `EXPERIMENTS` below;
- a variant (a pooling, or what stands in its place): a row in `nets.VARIANTS`;
- a data set: a loader and a row in `data.SOURCES`;
- a preset: a row in the experiment's `PRESETS`.

From a configuration to a page: `config` says what a cell is, `runner` decides which cells are still
to do, the experiment measures one (`trained` has what nets need: `nets`, `train`, `shifts`),
`store` keeps raw predictions, `metrics` turns them into numbers, `stats` compares these, `report`
and `figures` show them, and `joint` puts all on one page.
"""

EXPERIMENTS = {
    "consistency": "experiments.consistency",
    "equivariance": "experiments.equivariance",
    "stability": "experiments.stability",
    "augmentation": "experiments.augmentation",
    "leakage": "experiments.leakage",
    "continuum": "experiments.continuum",
    "separability": "experiments.separability",
    "transfer": "experiments.transfer",
    "speed": "experiments.speed",
}
"""Name -> module. The modules are imported when they are asked for: they load JAX."""
