"""attlas."""
