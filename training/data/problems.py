"""What is wrong with a data set, told in one message."""

from dataclasses import dataclass, field

MAX_PROBLEMS = 10  # in one message


@dataclass(kw_only=True)
class Problems:
    """Collects what is wrong with `where`, a file or folder, so that a user need not find it one by one."""

    where: object
    found: list[str] = field(default_factory=list)

    def add(self, problem: str) -> None:
        """`problem` names the entry or file and says what to do."""
        self.found.append(problem)

    def raise_if_any(self) -> None:
        """Raise ValueError with the first ten."""
        if self.found:
            shown = self.found[:MAX_PROBLEMS]
            if len(self.found) > MAX_PROBLEMS:
                shown.append(f"... and {len(self.found) - MAX_PROBLEMS} more")
            raise ValueError(f"{self.where} cannot be used:\n  " + "\n  ".join(shown))
