"""Which rows of a denoiser call are which picture and guidance branch, and which of them are kept."""

from torch import Tensor

from attlas.recorder.capture import Capture
from attlas.recorder.models.family import Family
from attlas.schemas.errors import CaptureError, ObservationError

__all__ = ["Rows"]


class Rows:
    """Rows of the calls of one run.

    Parameters
    ----------
    family, capture
        Branch orders that are known; which branches and heads are kept.
    pictures
        Pictures in the batch.
    passes
        Branches in the order of the denoiser's passes, where it computes one in each; empty where branches are rows of
        one call.
    """

    def __init__(self, family: Family, capture: Capture, pictures: int, passes: tuple[str, ...]) -> None:
        self._family = family
        self._capture = capture
        self._pictures = pictures
        self._passes = passes
        self._labels: tuple[str, ...] = ()
        self._chosen: tuple[int, ...] = ()

    @property
    def branches(self) -> tuple[str, ...]:
        """Branches that are kept, in order; known after the first `see`."""
        return tuple(self._labels[place] for place in self._chosen)

    def computed(self, number: int) -> tuple[str, ...]:
        """Branches that pass `number` computes."""
        return (self._passes[number],) if self._passes else self._labels

    def wanted(self, number: int) -> bool:
        """Whether pass `number` computes a branch that is kept."""
        return not self._passes or number in self._chosen

    def first(self, number: int) -> int:
        """Place, among the branches that are kept, of the first one that pass `number` computes."""
        return self._chosen.index(number) if self._passes else 0

    def see(self, rows: int, call: int) -> None:
        """Tell the branches of a call with `rows` rows, or check that they are those of the first call.

        Raises
        ------
        CaptureError, ObservationError
            If the rows cannot be told apart, a branch that is asked for is not there, or the branches changed.
        """
        if rows % self._pictures:
            raise CaptureError(
                f"the denoiser got {rows} rows for {self._pictures} pictures; rows of a batch that pictures do not "
                "divide cannot be told apart"
            )
        if self._passes and rows != self._pictures:
            raise CaptureError(
                f"the denoiser got {rows} rows for {self._pictures} pictures in a pass of one guidance branch; "
                "these rows cannot be told apart"
            )
        labels = self._passes or self._family.labels(rows // self._pictures)
        if self._labels and labels != self._labels:
            raise ObservationError(f"the guidance branches changed in call {call} from {self._labels} to {labels}")
        if self._labels:
            return
        wanted = labels if self._capture.branches == "all" else self._capture.branches
        absent = [name for name in wanted if name not in labels]
        if absent:
            raise CaptureError(
                f"branch {absent[0]!r} is asked for, but this run has {', '.join(labels)} only; "
                "guidance is off where guidance_scale is 1 or less"
            )
        self._labels = labels
        self._chosen = tuple(place for place, name in enumerate(labels) if name in wanted)

    def pick(self, tensor: Tensor) -> Tensor:
        """(row, head, ...) as (branch, picture, head, ...), less the branches and heads that are not wanted."""
        rows = 1 if self._passes else len(self._labels)
        tensor = tensor.reshape(rows, self._pictures, *tensor.shape[1:])
        if not self._passes and len(self._chosen) == 1:
            tensor = tensor[self._chosen[0] :][:1]
        elif not self._passes and len(self._chosen) < rows:
            tensor = tensor[list(self._chosen)]
        return tensor if self._capture.heads is None else tensor[:, :, list(self._capture.heads)]
