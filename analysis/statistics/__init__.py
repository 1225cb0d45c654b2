"""Statistics of runs, a file for each area; every module here registers its own when names are first looked up."""
