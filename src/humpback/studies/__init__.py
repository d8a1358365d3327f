"""Studies: grids of runs that share what they have in common."""
