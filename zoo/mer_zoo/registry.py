"""Models by name, from the built-ins and from plugins, through one hook."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mer_featurestore.errors import UnknownName
from mer_plugins import host
from mer_zoo.contract import ModelCard
from mer_zoo.errors import ZooError

if TYPE_CHECKING:
    from torch import nn

_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


def models() -> dict[str, ModelCard]:
    """Return the cards of all models, by name."""
    return dict(sorted(host.model_cards().items()))


def find_model(name: str) -> ModelCard:
    """Return a model's card.

    Raises:
        UnknownName: There is no such model; the message offers the nearest.
        PluginError: Two plugins offer it.
    """
    card: ModelCard = host.find_model(name)
    return card


def build_model(
    card: ModelCard, inputs: Mapping[str, int], classes: int, params: Mapping[str, Any]
) -> "nn.Module":
    """Build a model with its defaults and the given parameters.

    Args:
        card: The model's card.
        inputs: Width D per modality.
        classes: Number of classes.
        params: What differs from the defaults.

    Raises:
        UnknownName: The model has no such parameter.
        ZooError: A value the model cannot take.
    """
    return card.build(inputs=dict(inputs), classes=classes, **complete_params(card, params))


def complete_params(card: ModelCard, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return all parameters of a model, those given over its defaults; text is read as the default's type."""
    for name in params:
        if name not in card.params:
            raise UnknownName(f"parameter of {card.name}", name, card.params)
    given = {name: _typed(card, name, value) for name, value in params.items()}
    return {**card.params, **given}


def _typed(card: ModelCard, name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    default = card.params[name]
    try:
        if isinstance(default, bool):
            return _truth(value)
        return type(default)(value) if isinstance(default, (int, float)) else value
    except ValueError:
        kind = {bool: "true or false", int: "a whole number", float: "a number"}[type(default)]
        raise ZooError(
            f"{card.name} parameter {name} is {value!r}", f"give {kind}; the default is {default}"
        ) from None


def _truth(value: str) -> bool:
    if value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    raise ValueError(value)
