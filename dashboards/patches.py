"""Patches of a grid over a picture: where they lie in it, and which of them a place belongs to."""

from attlas.schemas.errors import InvalidValueError

__all__ = ["check_patch", "patch_at", "patch_box"]


def patch_box(
    patch: tuple[int, int], grid: tuple[int, int], extent: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Left, low, right and high edge of a patch, in pixels of the picture."""
    (row, column), (rows, columns), (height, width) = patch, grid, extent
    return (
        column * width / columns,
        row * height / rows,
        (column + 1) * width / columns,
        (row + 1) * height / rows,
    )


def check_patch(patch: tuple[int, int], grid: tuple[int, int]) -> None:
    """Refuse a patch outside its grid."""
    if not (0 <= patch[0] < grid[0] and 0 <= patch[1] < grid[1]):
        raise InvalidValueError(
            f"patch {tuple(patch)} is outside the {grid[0]}x{grid[1]} grid; "
            f"rows 0 to {grid[0] - 1} and columns 0 to {grid[1] - 1} are accepted"
        )


def patch_at(x: float, y: float, extent: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
    """Patch (row, column) of the grid at a place in a picture of `extent` (rows, columns).

    Raises
    ------
    InvalidValueError
        If the place is outside the picture.

    Examples
    --------
    >>> patch_at(63.9, 0.0, (64, 64), (16, 16))
    (0, 15)
    >>> patch_at(32.0, 64.0, (64, 64), (16, 16))
    (15, 8)
    """
    height, width = extent
    if not (0 <= x <= width and 0 <= y <= height):
        raise InvalidValueError(
            f"the click at ({x:.1f}, {y:.1f}) is outside the picture; "
            f"x from 0 to {width} and y from 0 to {height} are accepted"
        )
    # The far edges belong to the last patch.
    return min(int(y * grid[0] / height), grid[0] - 1), min(int(x * grid[1] / width), grid[1] - 1)
