"""The papers' own definitions, as printed and as released: I2AM's maps and losses, DAAM's words, open vocabulary."""
