"""The page of a comparison: report.html, one file that needs no network."""
