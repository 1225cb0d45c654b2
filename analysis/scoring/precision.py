"""Average precision, of pixels ranked by a map and of masks ranked by confidence; IoU of classes without names."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attlas.schemas.errors import InvalidValueError

__all__ = ["COCO_THRESHOLDS", "assigned_iou", "instance_precision", "pixel_precision"]

COCO_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""IoU from which a mask counts as found, in COCO's average precision: 0.50 to 0.95."""

RECALLS = np.linspace(0, 1, 101)


def pixel_precision(values: ArrayLike, inside: ArrayLike) -> NDArray[np.float64]:
    """Average precision of cells ranked by a map: the sum over distinct values of precision times gain in recall.

    Parameters
    ----------
    values
        Maps ``(..., cell)``.
    inside
        Masks of the same shape.

    Returns
    -------
    Without the last axis, in (0, 1]; NaN where the mask is empty or the map has a NaN. A map that ranks all of the mask
    first has 1; a constant map the mask's share of the cells. No threshold, and no scale of the map, matters.

    Raises
    ------
    InvalidValueError
        If maps and masks differ in shape.

    Examples
    --------
    >>> pixel_precision([[0.9, 0.8, 0.7, 0.1]], [[True, False, True, False]]).round(4).tolist()  # (1 + 2/3) / 2
    [0.8333]
    """
    maps, masks = np.asarray(values), np.asarray(inside, dtype=bool)
    if maps.shape != masks.shape:
        raise InvalidValueError(f"maps {maps.shape} and masks {masks.shape} differ in shape")
    flat = zip(maps.reshape(-1, maps.shape[-1]), masks.reshape(-1, masks.shape[-1]), strict=True)
    made = [_one_pixel_precision(own, mask) for own, mask in flat]
    return np.asarray(made, dtype=np.float64).reshape(maps.shape[:-1])


def instance_precision(
    ious: ArrayLike,
    confidence: ArrayLike | None = None,
    labels: Sequence[str] | None = None,
    *,
    thresholds: Sequence[float] = COCO_THRESHOLDS,
) -> float:
    """Average precision of one predicted mask for each object, by COCO's rule.

    A prediction is right at a threshold if its IoU reaches it. Predictions of one label are ranked by confidence;
    precision, made monotonous from the right, is averaged over 101 recalls, then over labels and thresholds.

    Parameters
    ----------
    ious
        IoU of each prediction with its object, ``(sample,)``; NaN is a miss.
    confidence
        Rank of each; equal ones stand or fall together. None: all equal, so that precision and recall are both the
        share that is right.
    labels
        Class of each; None: one class.
    thresholds
        IoUs that count as found.

    Returns
    -------
    In [0, 1]; NaN without samples.

    Raises
    ------
    InvalidValueError
        If `confidence` or `labels` has another length.

    Notes
    -----
    Not the AP of DAAM Table 1. The first release of its code takes the area under the share of masks that reach an IoU,
    over all IoUs from 0 to 1; that area is the mean IoU, exactly.

    Examples
    --------
    >>> instance_precision([0.9, 0.3], [0.8, 0.5], thresholds=[0.5])  # precision 1 up to recall 0.5: 51 of 101
    0.504950495049505
    """
    values = np.nan_to_num(np.asarray(ious, dtype=np.float64), nan=0.0)
    ranks = np.zeros(len(values)) if confidence is None else np.nan_to_num(np.asarray(confidence, "f8"), nan=-np.inf)
    classes = np.zeros(len(values)) if labels is None else np.asarray(labels)
    for what, own in (("confidence", ranks), ("labels", classes)):
        if len(own) != len(values):
            raise InvalidValueError(f"{what} has {len(own)} entries for {len(values)} samples")
    if not len(values):
        return float("nan")
    places = [classes == label for label in dict.fromkeys(classes.tolist())]
    made = [_interpolated(values[own] >= limit, ranks[own]) for limit in thresholds for own in places]
    return float(np.mean(made))


def assigned_iou(ious: ArrayLike, predicted: Sequence[str], true: Sequence[str]) -> tuple[float, dict[str, str]]:
    """Mean IoU after the best assignment of predicted labels to true ones, for maps whose labels are no names.

    As the released code of DAAM scores unsupervised methods: IoUs are summed for each pair of labels, the assignment
    with the largest sum is taken (Hungarian algorithm), and its sum is divided by the number of its IoUs.

    Parameters
    ----------
    ious
        IoU of a predicted and a true mask of one picture, ``(pair,)``; NaN does not count.
    predicted, true
        Labels of the two masks of each pair.

    Returns
    -------
    Mean IoU in [0, 1], NaN without pairs; and the true label of each predicted one that has any.

    Raises
    ------
    InvalidValueError
        If the labels have another length.

    Examples
    --------
    >>> assigned_iou([0.9, 0.1, 0.2, 0.7], ["x", "x", "y", "y"], ["cat", "dog", "cat", "dog"])
    (0.8, {'x': 'cat', 'y': 'dog'})
    """
    from scipy.optimize import linear_sum_assignment

    values = np.asarray(ious, dtype=np.float64)
    for what, own in (("predicted", predicted), ("true", true)):
        if len(own) != len(values):
            raise InvalidValueError(f"{what} has {len(own)} entries for {len(values)} IoUs")
    rows, columns = list(dict.fromkeys(predicted)), list(dict.fromkeys(true))
    sums, counts = np.zeros((2, len(rows), len(columns)))
    for value, one, other in zip(values, predicted, true, strict=True):
        if not np.isnan(value):
            place = rows.index(one), columns.index(other)
            sums[place] += value
            counts[place] += 1
    chosen = linear_sum_assignment(sums, maximize=True)
    total = counts[chosen].sum()
    pairs = {rows[row]: columns[column] for row, column in zip(*chosen, strict=True) if counts[row, column]}
    return (float(sums[chosen].sum() / total) if total else float("nan")), pairs


def _one_pixel_precision(values: NDArray[np.floating], inside: NDArray[np.bool_]) -> float:
    if np.isnan(values).any() or not inside.any():
        return float("nan")
    precision, recall = _curve(inside, values)
    return float((precision * np.diff(recall, prepend=0.0)).sum())


def _interpolated(right: NDArray[np.bool_], ranks: NDArray[np.float64]) -> float:
    """Mean over 101 recalls of the highest precision at that recall or beyond."""
    precision, recall = _curve(right, ranks, len(right))
    best = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, RECALLS - 1e-12)
    return float(np.append(best, 0.0)[places].mean())


def _curve(
    right: NDArray[np.bool_], ranks: NDArray[np.floating], objects: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall after each distinct rank, highest first."""
    order = np.argsort(-ranks, kind="stable")
    found = np.cumsum(right[order])
    ranked = ranks[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(order) - 1)
    return found[last] / (last + 1), found[last] / (found[-1] if objects is None else objects)
