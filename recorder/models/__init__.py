"""What is known of pipelines and their denoisers: what can be recorded, and how their tokens are laid out."""
