"""Attention computed block by block: logits from either encoding, their means, on any torch device."""
