"""The demo world: two tiny diffusion pipelines, really trained, with data whose truth is known.

`attlas.recorder.demo.shapes` draws coloured shapes from a caption; `attlas.recorder.demo.tryon` puts a reference
garment onto a figure. Each has ``load()`` (the pipeline), ``requests(n)`` (held-out samples with their truth) and the
script that trained it.
"""

__all__ = ["WORLDS"]

WORLDS = ("shapes", "tryon")
