"""The annotation that has a role: what scores ask for, whatever its name."""

import xarray as xr

from attlas.analysis.trace import Trace
from attlas.schemas.annotations import ROLE_MEANINGS, ROLES
from attlas.schemas.errors import NotRecordedError, StoreMismatchError, unknown_name

__all__ = ["annotation_of", "names_by_role"]


def annotation_of(trace: Trace, role: str, name: str | None = None) -> xr.DataArray:
    """Give the annotation that has a role, or the one that is named.

    Parameters
    ----------
    trace
        From `open_trace`.
    role
        One of `attlas.schemas.ROLES`: ``object``, ``reference_object``, ``correspondence`` or ``target``.
    name
        Name of the annotation to take for it instead, whatever its role.

    Returns
    -------
    ``(run, ...)`` as it was given, lazy; of masks 1 in, 0 out, -1 where a run has none.

    Raises
    ------
    UnknownNameError
        If there is no such role.
    NotRecordedError
        If no annotation has the role, or none has the name; it says which there are.
    StoreMismatchError
        If two annotations have the role, which stores that are opened together may have.

    Examples
    --------
    >>> from attlas.analysis import open_trace
    >>> from attlas.schemas import simulate_store
    >>> mask = annotation_of(open_trace(simulate_store(runs=2)), "object")
    >>> mask.dims, mask.shape
    (('run', 'image_y', 'image_x'), (2, 32, 32))
    """
    if role not in ROLES:
        raise unknown_name("role", role, ROLES)
    found = names_by_role(trace).get(role) if name is None else name
    if found is not None and found in trace.annotations:
        return trace.annotations[found]
    lacking = f"has the role {role!r}" if name is None else f"is named {name!r}, to be taken for {role!r}"
    raise NotRecordedError(
        f"no annotation of {trace.where} {lacking} ({ROLE_MEANINGS[role]}); it has {_told(trace)}. Give one while "
        f"recording: annotations={{{name or 'NAME'!r}: Annotation(values, role={role!r})}}"
    )


def names_by_role(trace: Trace) -> dict[str, str]:
    """Name of the annotation that has each role, of the roles that are there."""
    found: dict[str, str] = {}
    for name, values in trace.annotations.data_vars.items():
        role = values.attrs.get("role")
        if role not in ROLES:
            continue
        if role in found:
            raise StoreMismatchError(
                f"annotations {found[role]!r} and {name!r} of {trace.where} both have the role {role!r}; a role has "
                "one annotation: open stores that differ in names one by one"
            )
        found[role] = str(name)
    return found


def _told(trace: Trace) -> str:
    """Names of all annotations, with their roles."""
    shown = [
        f"{name} ({values.attrs['role']})" if "role" in values.attrs else str(name)
        for name, values in trace.annotations.data_vars.items()
    ]
    return ", ".join(shown) or "none"
