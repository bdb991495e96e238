"""Counts in words."""


def plural(count: int, noun: str) -> str:
    """Return `count` with its noun: `1 clip`, `2 clips` or `2 classes`."""
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun}{'es' if noun.endswith('s') else 's'}"
