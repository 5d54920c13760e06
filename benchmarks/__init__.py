"""Measure speed against the same work by hand, and check the demo's known answer; see `make bench`."""
