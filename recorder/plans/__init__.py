"""Dry runs: what a recording will hold, weigh and take."""
