"""A section of a text between two lines that mark it. Taking it out undoes putting it in, byte for byte."""

from attrs import frozen

from task_orchestrator.kit.parts import Unfit


@frozen
class Marks:
    first: str
    last: str

    def put(self, text: str | None, section: str) -> str:
        """At the end, or where it stood. In a file of its own it begins with the first line."""
        line_end = "\r\n" if text and "\r\n" in text else "\n"
        lines = line_end.join([self.first, *section.strip("\n").split("\n"), self.last]) + line_end
        if text is None:
            return lines
        if (span := self._span(text)) is not None:
            return text[: span[0]] + lines + text[span[1] :]
        return text + line_end + lines

    def take(self, text: str) -> str | None:
        """None if the file was made for it."""
        span = self._span(text)
        if span is None:
            return text
        start, end = span
        before = text[:start]
        if not before and end == len(text):
            return None
        return before.removesuffix("\n").removesuffix("\r") + text[end:]

    def _span(self, text: str) -> tuple[int, int] | None:
        lines = text.splitlines(keepends=True)
        marks = [line.strip() for line in lines]
        if self.first not in marks:
            return None
        first = marks.index(self.first)
        if self.last not in marks[first:]:
            raise Unfit(f"the line {self.last!r} is missing: take the section out by hand")
        last = marks.index(self.last, first)
        start = sum(map(len, lines[:first]))
        return start, start + sum(map(len, lines[first : last + 1]))
