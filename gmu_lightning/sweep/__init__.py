"""Which jobs of a cross product are run, how they are launched, and what the sweep leaves."""
