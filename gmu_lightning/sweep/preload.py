"""Import, once, what jobs need, in the server that their processes are forked from.

A module that cannot be imported is left to the jobs, each of which then fails by itself.
"""

from contextlib import suppress
from importlib import import_module

STACK = (
    *("gmu_lightning.lightning", "gmu_lightning.experiment.train", "gmu_lightning.sweep.job"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "pyarrow.parquet", "pandas"),
)

for name in STACK:
    with suppress(Exception, SystemExit):
        import_module(name)
