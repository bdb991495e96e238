"""What a search draws from, and the draws: a sampler of optuna's over a model's search space."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from mer_featurestore.errors import UnknownName
from mer_featurestore.records import canonical_json
from mer_zoo.contract import ModelCard
from mer_zoo.errors import ZooError
from mer_zoo.registry import complete_params, read_as
from mer_zoo.settings import Settings

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial

SAMPLERS = ("random", "tpe")
ROUND = 10  # trials that tpe draws before it hears of their scores
_NOT_DRAWN = ("epochs", "patience", "precision")
_DRAWABLE = {f.name: f.default for f in fields(Settings) if f.name not in _NOT_DRAWN}

Draw = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Space:
    """What is drawn, and what is fixed.

    Attributes:
        card: Of the model.
        choices: Values per name; a name is a parameter of the model or a setting of training.
        params: Parameters that are fixed.
        settings: Settings of training, before any is drawn.
    """

    card: ModelCard
    choices: Mapping[str, tuple[Any, ...]]
    params: Mapping[str, Any]
    settings: Settings

    @property
    def size(self) -> int:
        """How many distinct settings there are."""
        size = 1
        for values in self.choices.values():
            size *= len(values)
        return size

    def apply(self, draw: Draw) -> tuple[dict[str, Any], Settings]:
        """Return the model parameters and the settings of training of a draw."""
        params = {name: value for name, value in draw.items() if name in self.card.params}
        drawn = {name: value for name, value in draw.items() if name not in self.card.params}
        return {**self.params, **params}, Settings(**{**self.settings.to_json(), **drawn})


def make_space(
    card: ModelCard,
    *,
    draw: Mapping[str, Sequence[Any]] | None = None,
    fix: Mapping[str, Any] | None = None,
    settings: Settings | None = None,
) -> Space:
    """Decide what is drawn: the card's search space, as far as the user has not said otherwise.

    Args:
        card: Of the model.
        draw: Values to draw from instead, or for further names. Text is read as the default's type.
        fix: Values that are not drawn.
        settings: Of training.

    Raises:
        UnknownName: Neither a parameter of the model nor a setting of training.
        ZooError: Nothing is left to draw, or a value cannot be used.
    """
    wanted = {name: tuple(values) for name, values in {**card.search, **(draw or {})}.items()}
    typed = {name: tuple(_typed(card, name, v) for v in values) for name, values in wanted.items()}
    fixed = {name: _typed(card, name, value) for name, value in (fix or {}).items()}
    twice = sorted(set(fixed) & set(draw or {}))
    if twice:
        raise ZooError(f"{twice[0]} is both fixed and drawn", "give --fix or --draw, not both")
    choices = {name: tuple(dict.fromkeys(v)) for name, v in typed.items() if name not in fixed}
    if not choices or not all(choices.values()):
        raise ZooError(f"there is nothing to draw for {card.name}", "say what: --draw hidden=64,128")
    base = Space(card, choices, {}, settings or Settings())
    params, changed = base.apply(fixed)
    space = Space(card, choices, params, changed)
    for name, values in choices.items():
        for value in values:
            space.apply({name: value})  # settings check their range
    return space


def _typed(card: ModelCard, name: str, value: Any) -> Any:
    if name in card.params:
        return complete_params(card, {name: value})[name]
    if name not in _DRAWABLE:
        raise UnknownName(f"parameter of {card.name} or setting", name, [*card.params, *_DRAWABLE])
    return read_as(_DRAWABLE[name], value, f"training parameter {name}")


def key_of(draw: Draw) -> str:
    """Return the text by which equal draws are known."""
    return canonical_json(dict(draw)).decode()


class Sampler:
    """Draws trials and hears of their scores.

    Args:
        space: What is drawn from.
        sampler: `random`, or `tpe` (Bergstra et al. 2011), which learns from the scores.
        seed: Decides the draws.

    Raises:
        ZooError: optuna is not installed.
        UnknownName: There is no such sampler.
    """

    def __init__(self, space: Space, sampler: str = "random", seed: int = 0) -> None:
        if sampler not in SAMPLERS:
            raise UnknownName("sampler", sampler, SAMPLERS)
        self.learns = sampler == "tpe"
        self.names = sorted(space.choices)
        self.choices = {name: space.choices[name] for name in self.names}
        self.study = _study(self.learns, seed)

    def ask(self, count: int) -> "list[tuple[Trial, Draw]]":
        """Draw the next trials; several may be the same."""
        from optuna.distributions import CategoricalDistribution

        # By position: optuna takes any value that is a number, a word or a truth, but warns of others.
        places = {name: CategoricalDistribution(range(len(v))) for name, v in self.choices.items()}
        trials = [self.study.ask(places) for _ in range(count)]  # type: ignore[arg-type]  # dict is invariant
        return [(t, {n: self.choices[n][t.params[n]] for n in self.names}) for t in trials]

    def tell(self, trial: "Trial", score: float | None) -> None:
        """Say what a trial has scored; None when it could not be trained."""
        from optuna.trial import TrialState

        if score is None:
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.study.tell(trial, score)


def _study(learns: bool, seed: int) -> "Study":
    try:
        import optuna
    except ImportError as error:
        raise ZooError(
            "a search needs optuna, which is not installed", "pip install 'mer-fs[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of every trial otherwise
    chosen = optuna.samplers.TPESampler(seed=seed) if learns else optuna.samplers.RandomSampler(seed=seed)
    return optuna.create_study(direction="maximize", sampler=chosen)
