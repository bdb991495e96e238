"""Models by name, from the built-ins and from plugins, through one hook."""

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mer_featurestore.errors import UnknownName
from mer_plugins import host
from mer_zoo.contract import ModelCard
from mer_zoo.errors import ZooError

if TYPE_CHECKING:
    from torch import nn

# What torch and arithmetic raise for sizes and rates that make no model.
_UNBUILT = (ArithmeticError, AssertionError, RuntimeError, ValueError)
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
        ZooError: Values the model cannot take, or sizes that leave a layer empty.
    """
    complete = complete_params(card, params)
    told = " ".join(f"{name}={value}" for name, value in complete.items() if value != card.params[name])
    what = f"{card.name} cannot be built" + f" with {told}" * bool(told)
    try:
        with warnings.catch_warnings():  # an empty layer is refused below
            warnings.filterwarnings("ignore", "Initializing zero-element", UserWarning)
            model = card.build(inputs=dict(inputs), classes=classes, **complete)
    except _UNBUILT as error:
        raise ZooError(
            f"{what}: {error}", "change its parameters: mer-zoo models lists the defaults"
        ) from error
    empty = [name for name, parameter in model.named_parameters() if not parameter.numel()]
    if empty:
        raise ZooError(f"{what}: its {empty[0]} is empty", "make its sizes 1 or more")
    return model


def complete_params(card: ModelCard, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return all parameters of a model, those given over its defaults; text is read as the default's type.

    Raises:
        UnknownName: The model has no such parameter.
        ZooError: Text of another type, a number that is not finite, or a negative one where the default is
            above 0.
    """
    for name in params:
        if name not in card.params:
            raise UnknownName(f"parameter of {card.name}", name, card.params)
    given = {name: _checked(card, name, value) for name, value in params.items()}
    return {**card.params, **given}


def read_as(default: Any, text: Any, what: str) -> Any:
    """Return text as the default's type, and what is no text as it is.

    Args:
        default: Decides the type.
        text: What somebody typed.
        what: Is called so in the message.

    Raises:
        ZooError: The text is of another type.
    """
    if not isinstance(text, str):
        return text
    try:
        if isinstance(default, bool):
            return _truth(text)
        return type(default)(text) if isinstance(default, (int, float)) else text
    except ValueError:
        kind = {bool: "true or false", int: "a whole number", float: "a number"}[type(default)]
        raise ZooError(f"{what} is {text!r}", f"give {kind}; the default is {default}") from None


def _checked(card: ModelCard, name: str, value: Any) -> Any:
    default, what = card.params[name], f"{card.name} parameter {name}"
    found = read_as(default, value, what)
    if not (isinstance(found, (int, float)) and isinstance(default, (int, float))):
        return found
    # Sizes and rates are never negative; about others only the model knows.
    if not math.isfinite(found) or found < 0 < default:
        kind = "a number of 0 or more" if default > 0 else "a number"
        raise ZooError(f"{what} is {found}", f"give {kind}; the default is {default}")
    return found


def _truth(value: str) -> bool:
    if value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    raise ValueError(value)
