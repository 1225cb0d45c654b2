"""The runs of one store written anew into others, some into each."""

from dataclasses import replace

import numpy as np

from attlas.schemas import create_store, open_store


def split(source, path, rows, *, rename=str, annotated=None, **manifest):
    """Write the runs at `rows` of a store into one at `path` (None: in memory), bit for bit.

    `annotated` names the annotations that are kept; all are where it is None. What else is given changes the manifest.
    """
    group = source.group
    made = create_store(
        path, replace(source.manifest, **manifest), list(source.leaves.values()), source.branches, source.calls,
        source.image_shape, source.reference_shape, frames=source.frames,
    )  # fmt: skip
    names = sorted(group["annotations"].array_keys()) if "annotations" in group else []
    for number, row in enumerate(rows):
        told = {name: group[name][row] for name in ("run", "seed", "prompt", "request")}
        new = made.claim(
            rename(str(told["run"])), seed=int(told["seed"]), prompt=str(told["prompt"]), request=str(told["request"]),
            capacity=len(rows) - number,
        )  # fmt: skip
        steps, timesteps, sigmas = (group[name][row].tolist() for name in ("step", "timestep", "sigma"))
        made.write_clock(new, steps=steps, timesteps=timesteps, sigmas=sigmas)
        made.write_image(new, group["generated_image"][row])
        if source.reference_shape is not None:
            made.write_reference(new, group["reference_image"][row])
        kept = {name: np.asarray(group[f"annotations/{name}"][row])[()] for name in names}
        made.write_annotations(
            new, {name: values for name, values in kept.items() if annotated is None or name in annotated}
        )
        for name, leaf in source.leaves.items():
            _write_leaf(source, row, made, new, name, leaf)
        made.complete_run(new)
    made.finish()
    return made if path is None else open_store(path)


def _write_leaf(source, row, made, new, name, leaf):
    for variable in leaf.variables():
        if variable.role != "data" or "run" not in variable.dims:
            continue
        values = source.group[f"{name}/{variable.name}"][row]
        layout = made.layout(name, variable.name)
        blocks = {"t": layout.t_block, "layer": layout.layer_block}
        for t0 in range(0, source.calls if "t" in variable.dims else 1, blocks["t"]):
            for l0 in range(0, len(leaf.layers), blocks["layer"]):
                place = [slice(None)] * values.ndim
                for dim, first in (("t", t0), ("layer", l0)):
                    if dim in variable.dims:
                        place[variable.dims.index(dim) - 1] = slice(first, first + blocks[dim])
                made.write(
                    name, variable.name, new, values[tuple(place)], t0=t0 if "t" in variable.dims else 0, layer0=l0
                )
    if leaf.has_tokens:
        node = source.group[name]
        for branch in range(len(source.branches)):
            columns = {key: node[key][row, branch].tolist() for key in ("token", "token_segment")}
            numbers = {key: node[key][row, branch].tolist() for key in ("token_start", "token_end", "token_chunk")}
            made.write_tokens(
                name, new, branch, tokens=columns["token"], segments=columns["token_segment"],
                starts=numbers["token_start"], ends=numbers["token_end"], chunks=numbers["token_chunk"],
            )  # fmt: skip
