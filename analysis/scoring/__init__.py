"""Numbers of runs against what is known of them, and tables of such numbers."""
