"""Aligned text tables, and sizes and times as people read them."""

from collections.abc import Collection, Sequence

__all__ = ["aligned", "human_bytes", "human_time"]


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Lay out rows of cells in columns, those of `right` flush right.

    Examples
    --------
    >>> print(aligned([("a", "1"), ("bcd", "20")], right=(1,)))
    a     1
    bcd  20
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def human_bytes(size: float) -> str:
    """Say a number of bytes in three digits.

    Examples
    --------
    >>> human_bytes(812), human_bytes(123_456), human_bytes(7_890_000_000)
    ('812 B', '123 KB', '7.89 GB')
    """
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            break
        size /= 1000
    if unit == "B":
        return f"{size:.0f} B"
    return f"{size:.{2 if size < 9.995 else 1 if size < 99.95 else 0}f} {unit}"


def human_time(seconds: float) -> str:
    """Say a time in its two largest units.

    Examples
    --------
    >>> human_time(0.4212), human_time(42), human_time(200), human_time(7300), human_time(200_000)
    ('0.42 s', '42 s', '3 min 20 s', '2 h 2 min', '2 d 8 h')
    """
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"
