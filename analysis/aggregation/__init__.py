"""The one operator behind all maps: what is chosen, how leaves are read, weighed, laid out and summed."""
