"""Pages about runs: one evaluation, or two side by side."""
