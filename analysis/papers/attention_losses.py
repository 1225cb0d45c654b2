"""I2AM's refine losses as torch functions of attention: monotone order, smoothness and concentration of its centres.

The appendix leaves three things open, which are settled here in one way:

- Equation 15 divides the expectation by ``h'w'`` although each row of attention sums to 1 already. By default
  the centre is the plain expectation; ``variant="printed"`` divides.
- Equations 16 and 17 take ``C[..., 0]`` for the column, equation 20 compares it with the row index. Here ``[..., 0]``
  is the column (x) and ``[..., 1]`` the row (y) throughout.
- "Only within the warped cloth": a pair, or two neighbours, count if both queries do, and the mean of equation 21 is
  over the queries that count.

All three are least together where every query looks at one and the same patch: ties are in order, nothing varies,
and all is concentrated. Only the loss they are added to keeps attention from collapsing; keep their weights small, and
measure against a known truth.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attlas.schemas.errors import InvalidValueError, unknown_name

__all__ = ["LOSSES", "REDUCTIONS", "VARIANTS", "centres", "cwg_loss", "dcml_loss", "patch_coordinates", "tv_loss"]

VARIANTS = ("expectation", "printed")
REDUCTIONS = ("paper", "mean")


def patch_coordinates(rows: int, columns: int, like: Tensor | None = None) -> Tensor:
    """Column and row index of each patch, ``(rows, columns, 2)``, of the dtype and device of `like`."""
    dtype, device = (torch.float32, None) if like is None else (like.dtype, like.device)
    x, y = torch.arange(columns, dtype=dtype, device=device), torch.arange(rows, dtype=dtype, device=device)
    return torch.stack([x.expand(rows, columns), y[:, None].expand(rows, columns)], dim=-1)


def centres(
    attention: Tensor,
    coordinates: Tensor | None = None,
    *,
    variant: str = "expectation",
    renormalise: bool = True,
) -> Tensor:
    """Where each query looks on average: the weighted centre of its attention (eq. 15).

    Parameters
    ----------
    attention
        ``(..., query_y, query_x, key_y, key_x)``, each query's attention over the reference patches.
    coordinates
        Place of each patch as (x, y), ``(key_y, key_x, 2)`` or with leading dims that broadcast against those of
        `attention`; by default its column and row index.
    variant
        ``expectation``; or ``printed``: divided by the number of patches, as equation 15 has it.
    renormalise
        Divide by the attention that falls on the patches, so that keys beside them (CLS, other parts of the
        sequence) do not pull the centre towards the origin. False takes the attention as it is.

    Returns
    -------
    ``(..., query_y, query_x, 2)`` as (x, y), of the attention's dtype, differentiable; for index coordinates and
    ``expectation`` within ``[0, key_x - 1]`` and ``[0, key_y - 1]``.

    Raises
    ------
    InvalidValueError
        If the shapes do not fit.
    UnknownNameError
        For another `variant`.

    Examples
    --------
    >>> looks = torch.tensor([0.0, 0.25, 0.75, 0.0]).reshape(1, 1, 2, 2)
    >>> [round(place, 4) for place in centres(looks).flatten().tolist()]
    [0.25, 0.75]
    """
    if variant not in VARIANTS:
        raise unknown_name("variant", variant, VARIANTS)
    if attention.ndim < 4:
        raise InvalidValueError(
            f"attention must be (..., query_y, query_x, key_y, key_x); got shape {tuple(attention.shape)}"
        )
    rows, columns = attention.shape[-2:]
    places = patch_coordinates(rows, columns, attention) if coordinates is None else coordinates.to(attention)
    if places.shape[-3:] != (rows, columns, 2):
        raise InvalidValueError(
            f"coordinates must end in (key_y, key_x, 2) = {(rows, columns, 2)}; got shape {tuple(places.shape)}"
        )
    queries = attention.shape[-4:-2]
    flat = attention.reshape(*attention.shape[:-4], queries.numel(), rows * columns)
    found = flat @ places.reshape(*places.shape[:-3], rows * columns, 2)
    if renormalise:
        found = found / flat.sum(-1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
    if variant == "printed":
        found = found / (rows * columns)
    return found.reshape(*found.shape[:-2], *queries, 2)


def dcml_loss(
    attention: Tensor,
    queries: Tensor | None = None,
    coordinates: Tensor | None = None,
    *,
    variant: str = "expectation",
    reduction: str = "paper",
    renormalise: bool = True,
) -> Tensor:
    """Distance-centring maximisation loss (eq. 16-18): how far centres lie in the wrong order along rows and columns.

    Parameters
    ----------
    attention, coordinates, variant, renormalise
        As in `centres`.
    queries
        Which queries count, ``(query_y, query_x)`` or with leading dims; boolean or 0 and 1. By default all.
    reduction
        ``paper``: the sum over pairs; ``mean``: over the pairs that count, so that regions of different size compare.

    Returns
    -------
    The leading dims of `attention`; at least 0, and 0 where every pair is in order. NaN for ``mean`` without a pair.

    Examples
    --------
    >>> order = torch.eye(9).reshape(3, 3, 3, 3)
    >>> float(dcml_loss(order)), float(dcml_loss(order.flip(1)))  # 3 rows x (1 + 1 + 2) patches
    (0.0, 12.0)
    """
    _check_reduction(reduction)
    found = centres(attention, coordinates, variant=variant, renormalise=renormalise)
    counts = _counted(queries, found)
    wrong_x, pairs_x = _disorder(found[..., 0], counts)
    wrong_y, pairs_y = _disorder(found[..., 1].transpose(-1, -2), counts.transpose(-1, -2))
    wrong = wrong_x + wrong_y
    return wrong / _some(pairs_x + pairs_y) if reduction == "mean" else wrong


def tv_loss(
    attention: Tensor,
    queries: Tensor | None = None,
    coordinates: Tensor | None = None,
    *,
    variant: str = "expectation",
    reduction: str = "paper",
    renormalise: bool = True,
) -> Tensor:
    """Total variation loss (eq. 19): squared steps of the centres between neighbouring queries.

    Parameters and errors as in `dcml_loss`; ``mean`` is over the pairs of neighbours that count.

    Returns
    -------
    The leading dims of `attention`; at least 0, and 0 where all centres are the same.

    Examples
    --------
    >>> float(tv_loss(torch.eye(4).reshape(2, 2, 2, 2)))  # two steps of 1 along x, two along y
    4.0
    """
    _check_reduction(reduction)
    found = centres(attention, coordinates, variant=variant, renormalise=renormalise)
    counts = _counted(queries, found)
    right, below = counts[..., :, 1:] * counts[..., :, :-1], counts[..., 1:, :] * counts[..., :-1, :]
    steps_x = found.diff(dim=-2).square().sum(-1) * right
    steps_y = found.diff(dim=-3).square().sum(-1) * below
    total = steps_x.sum((-1, -2)) + steps_y.sum((-1, -2))
    return total / _some(right.sum((-1, -2)) + below.sum((-1, -2))) if reduction == "mean" else total


def cwg_loss(
    attention: Tensor,
    queries: Tensor | None = None,
    coordinates: Tensor | None = None,
    *,
    sigma: float = 1.0,
    variant: str = "expectation",
    reduction: str = "paper",
    renormalise: bool = True,
) -> Tensor:
    """Centre-weighted Gaussian loss (eq. 20-21): minus the attention that lies near its own centre.

    Parameters
    ----------
    attention, queries, coordinates, variant, renormalise
        As in `dcml_loss`. `renormalise` concerns the centre alone: attention to keys that are no patches is
        attention that is not near it.
    sigma
        Of the Gaussian, in the unit of the coordinates; above 0. The paper's is 1.
    reduction
        ``paper``: mean over the queries that count and over all patches; ``mean``: mean over queries of the sum over
        patches, which is the former times ``key_y * key_x``.

    Returns
    -------
    The leading dims of `attention`; for ``mean`` in [-1, 0], -1 where every query looks at its centre alone. NaN where
    no query counts.

    Raises
    ------
    InvalidValueError
        If `sigma` is not above 0, or the shapes do not fit.

    Examples
    --------
    >>> float(cwg_loss(torch.eye(4).reshape(2, 2, 2, 2))), float(cwg_loss(torch.eye(4).reshape(2, 2, 2, 2), sigma=9.0))
    (-0.25, -0.25)
    """
    _check_reduction(reduction)
    if not sigma > 0:
        raise InvalidValueError(f"sigma must be above 0; got {sigma}")
    found = centres(attention, coordinates, variant=variant, renormalise=renormalise)
    rows, columns = attention.shape[-2:]
    places = patch_coordinates(rows, columns, attention) if coordinates is None else coordinates.to(attention)
    # Coordinate by coordinate: a last axis of 2 would be twice the memory and several times the time.
    far = torch.zeros((), dtype=attention.dtype, device=attention.device)
    for axis in range(2):
        far = far + (found[..., None, None, axis] - places[..., None, None, :, :, axis]).square()
    near = (torch.exp(far / (-2 * sigma**2)) * attention).sum((-1, -2))
    counts = _counted(queries, found)
    made = -(near * counts).sum((-1, -2)) / _some(counts.sum((-1, -2)))
    return made if reduction == "mean" else made / (rows * columns)


LOSSES = {"dcml": dcml_loss, "tv": tv_loss, "cwg": cwg_loss}
"""The three losses by the name of their diagnostic."""


def _disorder(line: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of ``max(0, c_j - c_k)`` over pairs j < k of the last axis, and how many pairs count."""
    before = torch.ones(line.shape[-1], line.shape[-1], dtype=line.dtype, device=line.device).triu(1)
    pairs = counts[..., :, None] * counts[..., None, :] * before
    wrong = (line[..., :, None] - line[..., None, :]).clamp(min=0) * pairs
    return wrong.sum((-1, -2, -3)), pairs.sum((-1, -2, -3))


def _counted(queries: Tensor | None, found: Tensor) -> Tensor:
    shape = found.shape[-3:-1]
    if queries is None:
        return found.new_ones(shape)
    if queries.shape[-2:] != shape:
        raise InvalidValueError(
            f"queries is a mask of {tuple(queries.shape[-2:])} and the attention has queries {tuple(shape)} (rows, "
            "columns)"
        )
    return queries.to(found)


def _some(count: Tensor) -> Tensor:
    """Give a count to divide by: NaN in place of 0."""
    return torch.where(count > 0, count, torch.full_like(count, torch.nan))


def _check_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise unknown_name("reduction", reduction, REDUCTIONS)
