"""Numbers of runs, and partial results of many runs that add up."""
