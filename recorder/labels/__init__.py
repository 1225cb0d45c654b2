"""Labels of text keys: token, segment, characters of the prompt, chunk."""
