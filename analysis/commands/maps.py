"""The command ``attlas map``; everything heavy is imported when it runs."""

import json
from typing import TYPE_CHECKING, Any

import click

from attlas.analysis.commands.sink_options import sink_options, sinks_given
from attlas.schemas.errors import InvalidValueError

if TYPE_CHECKING:
    import xarray as xr

    from attlas.analysis.trace import Trace

__all__ = ["map_"]

MAPS = ("ulam", "tlam", "hlam", "llam", "sram", "reverse-sram", "daam")
WORD_OPTIONS = ("occurrence", "chunk", "merge", "normalize")


@click.command(name="map")
@click.argument("store")
@click.option(
    "--map", "name", metavar="NAME[:OPTION=VALUE,...]", required=True, help=f"{', '.join(MAPS)}, or a registered map."
)
@click.option("--plugin", "plugins", multiple=True, metavar="MODULE|FILE.py", help="Load registered maps from here.")
@click.option(
    "--direction", type=click.Choice(("g2r", "r2g")), default="r2g", show_default=True, help="For the four LAMs."
)
@click.option("--run", "runs", multiple=True, help="Run to show; may be given again.  [default: the first]")
@click.option("--all-runs", is_flag=True, help="Show every run.")
@click.option("--word", help="Word or phrase of the prompt (daam).")
@click.option("--patch", help="row,column or row,column,row end,column end (sram, reverse-sram).")
@click.option("--frame", type=int, help="Latent frame of a video.  [default: the middle one]")
@click.option("--segment", help="Part of a joint sequence that the map or patch lies on: generated or reference.")
@click.option("--picture", type=int, help="Reference picture, from 0, where there are several.")
@click.option("--kind", help="text, image, self or joint.")
@click.option("--branch", help="Guidance branch.  [default: cond]")
@click.option("--layers", multiple=True, help="Layer path, part of one, shell pattern, or grid; may be given again.")
@click.option("--heads", help="Numbers such as 0,3, or layer:head pairs, or top:K (daam).")
@click.option("--steps", help="Sampler steps such as 0,1,2 or 0:10.")
@click.option("--groups", type=int, help="Groups of calls (tlam).")
@click.option("--grid", help="Grid of the map, such as 64x64.")
@click.option("--resample", type=click.Choice(("nearest", "bilinear", "bicubic", "area")))
@click.option("--conserve", type=click.Choice(("intensity", "mass")))
@click.option("--variant", type=click.Choice(("paper", "released")), help="DAAM as printed or as released.")
@click.option("--occurrence", type=int, help="Which occurrence of the word, from 0 (daam).  [default: all]")
@click.option("--chunk", type=int, help="Which text encoder's or chunk's tokens, from 0 (daam).  [default: all]")
@click.option("--merge", type=click.Choice(("mean", "sum", "max")), help="How a word's tokens become one map (daam).")
@click.option("--normalize", is_flag=True, default=None, help="Share of what all words get (daam).")
@click.option("--open-vocabulary", is_flag=True, help="Ask for a word of the store's vocabulary, in the prompt or not.")
@click.option("--text", help="Text of the vocabulary in which the word stands (with --open-vocabulary).")
@click.option("--over", type=click.Choice(("alone", "prompt")), help="What an open vocabulary's softmax runs over.")
@sink_options
@click.option("--threshold", "tau", type=float, help="Show only what is above it in the PNG.")
@click.option(
    "--rule", type=click.Choice(("minmax", "max", "percentile", "absolute")), default="minmax", show_default=True
)
@click.option("--out", type=click.Path(dir_okay=False), help="FILE.png over the picture; FILE.nc or .parquet.")
@click.option("--json", "as_json", is_flag=True, help="Print the map's numbers as JSON.")
def map_(store: str, name: str, **given: Any) -> None:
    r"""Compute one map of STORE and write it as a picture or NetCDF.

    \b
    attlas map cats.zarr --map daam --word cat --out cat.png
    attlas map cats.zarr --map daam --word dog --open-vocabulary --out dog.png
    attlas map dress.zarr --map sram --patch 12,7 --layers 32x32 --out sram.png

    \b
    --heads top:10 takes the 10 heads (top:0.2: the fifth of them) whose maps of the word agree best with all heads'.
    """
    from attlas.analysis.opening import open_named
    from attlas.analysis.output.pictures import SUFFIXES, one_frame, save_map
    from attlas.analysis.output.whole_file import check_suffix
    from attlas.analysis.plugins import load_plugins

    load_plugins(given["plugins"])
    if given["out"]:
        check_suffix(given["out"], SUFFIXES)
    given["sinks"] = sinks_given(given)
    trace = open_named(store)
    if not trace.run_ids:
        raise InvalidValueError(f"{store} has no complete run")
    if not given["all_runs"]:
        trace = trace.sel(given["runs"] or trace.run_ids[:1])
    if given["frame"] is not None and not any(len(leaf.query_grid) == 3 for leaf in trace.leaves.values()):
        raise InvalidValueError(f"--frame {given['frame']}: {store} holds pictures, which have no frames")
    values = one_frame(_compute(trace, name, given), given["frame"]).compute()
    if given["out"]:
        save_map(trace, values, given["out"], tau=given["tau"], rule=given["rule"])
    if given["as_json"]:
        click.echo(json.dumps(_describe(values), indent=1))
    else:
        _show(values, given["out"])


def _compute(trace: "Trace", name: str, given: dict[str, Any]) -> "xr.DataArray":
    from attlas.analysis import maps

    if name not in MAPS:
        return _registered(trace, name, given)
    options = {key: given[key] for key in ("kind", "branch", "grid", "resample", "conserve", "segment") if given[key]}
    options |= {} if given["picture"] is None else {"picture": given["picture"]}
    options |= {"layers": list(given["layers"])} if given["layers"] else {}
    options |= {"sinks": given["sinks"]} if given["sinks"] else {}
    best = (given["heads"] or "").startswith("top:")
    options |= {"heads": _heads(given["heads"])} if given["heads"] and not best else {}
    options |= {"steps": _steps(given["steps"])} if given["steps"] else {}
    for option, users in (
        ("word", ("daam",)),
        ("patch", ("sram", "reverse-sram")),
        ("groups", ("tlam",)),
        ("variant", ("daam",)),
        ("text", ("daam",)),
        ("over", ("daam",)),
        *((option, ("daam",)) for option in WORD_OPTIONS),
    ):
        if given[option] is not None and name not in users:
            raise InvalidValueError(f"--{option} belongs to {' and '.join(users)}, not to {name}")
    for option, used in (("--heads top:", best), ("--open-vocabulary", given["open_vocabulary"])):
        if used and name != "daam":
            raise InvalidValueError(f"{option} belongs to daam, not to {name}")
    if name == "daam":
        return _daam(trace, given, options, best)
    if name in ("sram", "reverse-sram"):
        if not given["patch"]:
            raise InvalidValueError(f"{name} needs --patch row,column")
        function = maps.sram if name == "sram" else maps.reverse_sram
        return function(trace, _patch(trace, name, given), **options)
    if name == "tlam":
        return maps.tlam(trace, given["direction"], given["groups"], **options)
    return {"ulam": maps.ulam, "hlam": maps.hlam, "llam": maps.llam}[name](trace, given["direction"], **options)


def _daam(trace: "Trace", given: dict[str, Any], options: dict[str, Any], best: bool) -> "xr.DataArray":
    from attlas.analysis import heads, maps

    if not given["word"]:
        raise InvalidValueError("daam needs --word")
    if (given["text"] or given["over"]) and not given["open_vocabulary"]:
        raise InvalidValueError("--text and --over go with --open-vocabulary")
    options |= {"open_vocabulary": given["text"] or True} if given["open_vocabulary"] else {}
    options |= {key: given[key] for key in ("variant", "over") if given[key]}
    options |= {key: given[key] for key in WORD_OPTIONS if given[key] is not None}
    if best:
        of_heads = maps.daam(trace, given["word"], keep=("layer", "head"), **{**options, "variant": "released"})
        options["heads"] = heads.select(heads.agreement(of_heads.rename(run="sample")), top=_count(given["heads"]))
    return maps.daam(trace, given["word"], **options)


def _count(text: str) -> float:
    number = text.removeprefix("top:")
    try:
        return int(number) if number.isdecimal() else float(number)
    except ValueError as err:
        raise InvalidValueError(f"--heads {text!r}; a number of heads or a fraction of them is needed") from err


def _registered(trace: "Trace", text: str, given: dict[str, Any]) -> "xr.DataArray":
    """Map of a registered function; of the options on the command line it takes those of its names."""
    from attlas.analysis.registry import map_functions
    from attlas.analysis.surveys.records import canonical
    from attlas.analysis.surveys.specs import read_specs
    from attlas.schemas.errors import unknown_name

    name = text.partition(":")[0]
    known = map_functions()
    if name not in known:
        raise unknown_name("map", name, [*MAPS, *known])
    told = {key: given[key] for key in ("kind", "branch", "layers", "word", "grid", "segment") if given[key]}
    for key in told:
        if key not in known[name].options and not known[name].takes_any:
            raise InvalidValueError(f"--{key}: map {name!r} takes {', '.join(known[name].options) or 'no option'}")
    if "direction" in known[name].options and "direction=" not in text:
        told["direction"] = given["direction"]
    told = {key: list(value) if isinstance(value, tuple) else value for key, value in told.items()}
    (spec,) = read_specs((text, told), maps=True)
    made = spec.function(trace, **spec.options)
    canonical(made, spec, trace)
    labelled = made.transpose("run", ...).assign_coords(run=list(trace.run_ids))
    return labelled.assign_attrs({"long_name": spec.meaning or name, "units": spec.units, **made.attrs})


def _patch(trace: "Trace", name: str, given: dict[str, Any]) -> tuple[int, ...]:
    """Patch or box, in a video on the frame that is asked."""
    numbers = tuple(_numbers(given["patch"], "--patch"))
    frames = {leaf.query_grid[0] for leaf in trace.leaves.values() if len(leaf.query_grid) == 3}
    on_picture = name == "reverse-sram" and (given["kind"] == "image" or given["segment"] == "reference")
    if not frames or on_picture or len(numbers) not in (2, 4):
        return numbers
    frame = max(frames) // 2 if given["frame"] is None else given["frame"]
    return (frame, *numbers) if len(numbers) == 2 else (frame, *numbers[:2], frame + 1, *numbers[2:])


def _heads(text: str) -> list[Any]:
    if ":" not in text:
        return _numbers(text, "--heads")
    pairs = [part.rpartition(":") for part in text.split(",")]
    return [(layer.strip(), _numbers(head, "--heads")[0]) for layer, _, head in pairs]


def _steps(text: str) -> slice | list[int]:
    if ":" not in text:
        return _numbers(text, "--steps")
    first, _, last = text.partition(":")
    return slice(*(None if not part else _numbers(part, "--steps")[0] for part in (first, last)))


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as err:
        raise InvalidValueError(f"{option} {text!r}; whole numbers joined by commas are accepted") from err


def _describe(values: "xr.DataArray") -> dict[str, Any]:
    """Numbers of a map: dims, attributes, and for every map of every run its range and the place of its maximum."""
    from attlas.analysis.metrics import peak

    tokens = values.dims[-1] == "key"
    lead = values.dims[: -1 if tokens else -2]
    told = []
    for place in _places(values, lead):
        one = values.isel(place)
        label = {dim: one[dim].item() for dim in lead if dim in one.coords}
        numbers: dict[str, Any] = {name: _finite(getattr(one, name)()) for name in ("min", "max", "mean")}
        if tokens:
            names = [str(token) for token in one["token"].values] if "token" in one.coords else None
            numbers |= {"tokens": names, "values": [_finite(value) for value in one.values]}
        else:
            numbers["peak"] = [_finite(value) for value in peak(one).values]
        told.append({str(dim): value for dim, value in label.items()} | numbers)
    sizes = {str(dim): int(size) for dim, size in values.sizes.items()}
    return {"sizes": sizes, "attributes": dict(values.attrs), "maps": told}


def _places(values: "xr.DataArray", lead: tuple[Any, ...]) -> list[dict[Any, int]]:
    import numpy as np

    shape = tuple(values.sizes[dim] for dim in lead)
    return [dict(zip(lead, map(int, place), strict=True)) for place in np.ndindex(*shape)]


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if number == number and abs(number) != float("inf") else None


def _show(values: "xr.DataArray", out: str | None) -> None:
    told = _describe(values)
    attributes = told["attributes"]
    click.echo(f"{attributes['long_name']}, {' x '.join(f'{dim} {size}' for dim, size in told['sizes'].items())}")
    for one in told["maps"]:
        label = " ".join(f"{dim} {one[dim]}" for dim in values.dims if dim in one)
        place = (
            f"  largest at {', '.join(f'{number:g}' for number in one['peak'])}"
            if one.get("peak", [None])[0] is not None
            else ""
        )
        click.echo(
            f"  {label}: {one['min']:.4g} to {one['max']:.4g}{place}" if one["min"] is not None else f"  {label}: NaN"
        )
    if out:
        click.echo(f"wrote {out}")
