"""Runs the steps of a recipe, one after the other, passing over what is there."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mer_featurestore.wording import plural
from mer_zoo.errors import ZooError
from mer_zoo.recipes.lines import Step
from mer_zoo.recipes.state import Made, State, other_command

Status = Literal["done", "there", "passed over", "to do", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step went.

    Attributes:
        step: The step.
        status: `done`; `there`: its products are in the store; `passed over`: before the start; `to do`: not
            reached, or a dry run; `failed`; `stopped`: interrupted.
        seconds: It took.
        note: Why, for people.
        warning: A product was made by another command.
    """

    step: Step
    status: Status
    seconds: float = 0.0
    note: str = ""
    warning: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        step = self.step
        said = {"status": self.status, "seconds": round(self.seconds, 3), "note": self.note}
        said["warning"] = self.warning
        return {"number": step.number, "title": step.title, "command": step.line, "makes": step.makes, **said}


def look(step: Step, state: State) -> Outcome:
    """Say whether a step is to be run, and why (not)."""
    found = state.find(step.makes)
    absent = [ref for ref, made in zip(step.makes, found, strict=True) if made is None]
    if not step.makes:
        return Outcome(step, "to do", note="it sees for itself what is left to do")
    if absent:
        return Outcome(step, "to do", note="makes " + ", ".join(absent))
    there = [made for made in found if made is not None]
    for made in there:
        if made.left:
            return Outcome(step, "to do", note=f"{made.ref} lacks {plural(made.left, 'clip')}")
    return Outcome(step, "there", note=_since(there), warning=_warning(step, there))


def run_steps(
    steps: Sequence[Step],
    state: State,
    execute: Callable[[Sequence[str]], None],
    *,
    start: int = 1,
    dry_run: bool = False,
    told: Callable[[Outcome, bool], None] = lambda _outcome, _begins: None,
) -> list[Outcome]:
    """Run steps, one after the other.

    Args:
        steps: As `make_steps` gives them.
        state: Of the store.
        execute: Runs one command line; what it raises ends the run.
        start: Number of the first step to look at.
        dry_run: Say what would be run, and run nothing.
        told: Called with every outcome, and, before a step is run, with what is to be done and True.

    Returns:
        An outcome per step.

    Raises:
        ZooError: A step ended well and did not make what it should have.
    """
    outcomes: list[Outcome] = []
    for step in steps:
        outcome = Outcome(step, "passed over") if step.number < start else look(step, state)
        if outcome.status == "to do" and not dry_run:
            told(outcome, True)
            outcome = _run(step, state, execute, told)
        told(outcome, False)
        outcomes.append(outcome)
    return outcomes


def _run(
    step: Step, state: State, execute: Callable[[Sequence[str]], None], told: Callable[[Outcome, bool], None]
) -> Outcome:
    began = time.monotonic()
    try:
        execute(step.argv)
        _check(step, state)
    except BaseException as error:
        stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
        told(Outcome(step, "stopped" if stopped else "failed", time.monotonic() - began), False)
        raise
    return Outcome(step, "done", time.monotonic() - began)


def _check(step: Step, state: State) -> None:
    for ref, made in zip(step.makes, state.find(step.makes), strict=True):
        if made is None:
            raise ZooError(
                f"step {step.number} ended without making {ref}",
                "see what it printed; in the recipe, run: and makes: must agree",
            )


def _since(there: Sequence[Made]) -> str:
    return ", ".join(made.ref + (f" (commit {made.commit})" if made.commit else "") for made in there)


def _warning(step: Step, there: Sequence[Made]) -> str:
    for made in there:
        if other := other_command(made, step.line):
            return f"{made.ref} was made by another command: {other}"
    return ""
