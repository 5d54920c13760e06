"""The checklist of a comparison: what makes its findings reliable, each item as yes or no, with the file that proves it."""
