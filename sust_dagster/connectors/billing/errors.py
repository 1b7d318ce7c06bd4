"""What goes wrong with a bill as a whole. A bad row is never an error: it is quarantined."""

from __future__ import annotations


class BillingError(ValueError):
    """A bill, or a file of it, cannot be read as it is.

    ``file`` label of the file, ``row`` data row number from 1, ``column`` of the file, ``fix`` what would help.
    """

    def __init__(
        self, problem: str, *, file: str = "", row: int | None = None, column: str | None = None, fix: str = ""
    ) -> None:
        self.problem = problem
        self.file = file
        self.row = row
        self.column = column
        self.fix = fix
        where = ", ".join(
            part
            for part in (
                file,
                f"row {row}" if row is not None else "",
                f"column {column}" if column is not None else "",
            )
            if part
        )
        message = f"{where}: {problem}" if where else problem
        super().__init__(f"{message}; {fix}" if fix else message)


class UnknownFormatError(BillingError):
    """The file is no bill, by its columns; in a folder of other files it may be passed over."""
