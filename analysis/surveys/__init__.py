"""Surveys: statistics of many runs, out of core, from partial results that add up."""
