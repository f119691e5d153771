"""Report: one self-contained HTML file with charts, numbers and scripts, which needs no network access."""
