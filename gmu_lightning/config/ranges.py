"""Types for the ranges of settings. Constructors use them too, so that a setting's range stands beside its default.

The markers come from annotated_types, which imports fast. pydantic reads the same markers, and is imported only to check values.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

Count = Annotated[int, Ge(1), Le(10**9)]
Size = Annotated[int, Ge(1), Le(2**16)]  # length of a vector, or pixels of a side
Few = Annotated[int, Ge(1), Le(1024)]  # layers, heads, processes, threads
FromZero = Annotated[int, Ge(0), Le(10**9)]
Seed = Annotated[int, Ge(0), Lt(2**64), "a whole number from 0 on and below 2^64, such as 1"]  # torch's limit
Probability = Annotated[float, Ge(0), Lt(1)]
Share = Annotated[float, Gt(0), Le(1)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
