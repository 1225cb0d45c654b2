"""Which heads to listen to: relevance, rankings, curves, and what the heads of a word really answer."""
