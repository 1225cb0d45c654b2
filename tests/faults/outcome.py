"""What came of one fault."""

from dataclasses import dataclass, field

__all__ = ["KINDS", "Outcome"]

KINDS = {
    "loss": "a complete run, or the whole store, could not be read, or success was said with less than was asked",
    "wrong number": "a reader was given a value that is not the recorded one",
    "foreign exception": "an error that is none of attlas's own",
    "not resumed": "the same call again did not finish",
    "differs": "the resumed store is not the undisturbed one",
    "left over": "files or hooks that nothing needs",
    "not valid": "`validate_store` finds a problem where there is none",
    "not found": "`validate_store` does not list a problem where there is one",
    "drawn twice": "a picture that was drawn though another process drew it",
    "hang": "a process that did not end",
    "not killed": "a process that outlived its own SIGKILL",
    "too much": "opening took more time or memory than is allowed",
}
"""Everything that can go wrong, and what it means."""


@dataclass
class Outcome:
    """One fault and what is wrong after it.

    Attributes
    ----------
    scenario, mode, number
        Which fault: in which recording, of what kind, at which operation or with which seed.
    operation
        What it hit, in words.
    reached
        Whether it happened: a recording can end before an operation that it mostly has.
    raised
        Class of the error that the caller saw.
    runs
        Runs that were compared with the undisturbed ones, value by value.
    problems
        Kind (of KINDS) and description of everything that is not as promised.
    """

    scenario: str
    mode: str
    number: int
    operation: str = ""
    reached: bool = True
    raised: str = ""
    runs: int = 0
    seconds: float = 0.0
    problems: list[tuple[str, str]] = field(default_factory=list)

    def add(self, kind: str, text: str) -> None:
        """Note something that is not as promised."""
        assert kind in KINDS, kind
        self.problems.append((kind, text))

    def __str__(self) -> str:
        return "\n".join([self._head, *(f"  {kind}: {text}" for kind, text in self.problems)])

    def brief(self) -> str:
        """Give a line for each problem; of a traceback the last."""
        lines = [(kind, text.strip().splitlines()[-1][:300]) for kind, text in self.problems]
        return "\n".join([self._head, *(f"  {kind}: {line}" for kind, line in lines)])

    @property
    def _head(self) -> str:
        return f"{self.scenario}: {self.mode} at {self.number} ({self.operation})"
