"""Published checkpoints: where their files are, what they hash to, and loading them whole or not at all.

A checkpoint is a folder in the usual Hugging Face layout (`config.json`, weights, preprocessor or tokenizer
files), or a hub id whose snapshot is fetched into the hub's own cache. A folder is read offline. Code beside
the weights is not run, unless it is trusted in so many words.
"""

import hashlib
import json
import os
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from logging import CRITICAL
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mer_plugins.errors import PluginError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "float16", "bfloat16")
_FETCHED = ("*.json", "*.txt", "*.model", "model*.safetensors")
_PICKLED = ("pytorch_model*.bin", "pytorch_model*.bin.index.json")
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
# What decides how inputs become tensors, next to the weights.
_SETTINGS = (
    "config.json", "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt", "merges.txt",
)  # fmt: skip
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A row of a family's table of named checkpoints.

    Attributes:
        name: As typed after `--plugin`.
        model: Hub id.
        width: Size of a row of features as they come by default.
        blocks: Transformer blocks, so layers are 0 … blocks.
        licence: What the model card says of the weights' licence.
        revision: Default revision.
    """

    name: str
    model: str
    width: int
    blocks: int
    licence: str
    revision: str = "main"


@dataclass(frozen=True)
class Source:
    """The files of one checkpoint on this machine.

    Attributes:
        folder: Where they are.
        model: The hub id, or the folder's own name.
        revision: The hub commit; empty for a folder.
        trusted: Whether the code beside the weights may be run.
    """

    folder: Path
    model: str
    revision: str = ""
    trusted: bool = False

    @cached_property
    def config(self) -> dict[str, Any]:
        """The parsed `config.json`."""
        return self.json("config.json")

    def json(self, name: str) -> dict[str, Any]:
        """Return a parsed file of the checkpoint.

        Raises:
            PluginError: There is no such file, or it is not a JSON object.
        """
        try:
            value = json.loads((self.folder / name).read_bytes())
        except FileNotFoundError as error:
            raise PluginError(f"{self.folder} has no {name}", "is it a checkpoint folder?") from error
        except ValueError as error:
            raise PluginError(f"{self.folder / name} is not JSON: {error}", "get the file anew") from error
        if not isinstance(value, dict):
            raise PluginError(f"{self.folder / name} is not a JSON object", "get the file anew")
        return value

    def number(self, name: str, part: str = "") -> int:
        """Return a whole number of the configuration, of its sub-configuration `part` where it has one.

        Files leave out what equals the architecture's defaults; transformers is asked (and imported) then.
        """
        config = self.config.get(part, self.config) if part else self.config
        value = config.get(name)
        if isinstance(value, int):
            return value
        full = load_config(self)
        value = getattr(getattr(full, part, full) if part else full, name, None)
        if not isinstance(value, int):
            raise PluginError(
                f"the configuration of {self.model} says no {name}", "it is of no kind known here"
            )
        return value

    @cached_property
    def weight_files(self) -> list[Path]:
        """The weights: safetensors, else PyTorch files of plain tensors."""
        for pattern in _WEIGHTS:
            if files := sorted(self.folder.glob(pattern)):
                return files
        raise PluginError(f"{self.folder} has no weights ({' or '.join(_WEIGHTS)})", "is it whole?")

    def made_by(self) -> dict[str, Any]:
        """Return the checkpoint's part of the fingerprint: name, revision, hashes of weights and settings.

        And of the code that is run, where it is trusted.
        """
        code = {"remote_code_sha256": _digest(sorted(self.folder.glob("*.py")))} if self.trusted else {}
        settings = [self.folder / name for name in _SETTINGS if (self.folder / name).is_file()]
        return {
            "model": self.model,
            "revision": self.revision,
            "weights_sha256": _digest(self.weight_files),
            "settings_sha256": _digest(settings),
            **code,
        }


def locate(model: str, revision: str | None = None, *, trusted: bool = False) -> Source:
    """Find a checkpoint: a folder as it is, a hub id through the hub's cache, fetched when not there.

    Args:
        model: Folder or hub id.
        revision: Of a hub id.
        trusted: Whether the code beside the weights may be run; it is fetched then.

    Raises:
        PluginError: No such folder, the hub cannot be reached and the cache has no such snapshot, or the
            trusted code lies in another repository.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision:
            raise PluginError(f"{model} is a folder, which has no revisions", "leave --revision out")
        return _checked(Source(folder, folder.resolve().name, trusted=trusted))
    if not _HUB_ID.fullmatch(model):
        raise PluginError(
            f"there is no checkpoint folder {model}", "give an existing folder or a hub id OWNER/NAME"
        )
    snapshot = _snapshot(model, revision, ("*.py",) if trusted else ())
    return _checked(Source(snapshot, model, snapshot.name, trusted))


def _checked(source: Source) -> Source:
    """Refuse trusted code that is not beside the weights, where it could change unseen."""
    places = source.config.get("auto_map", {}).values() if source.trusted else ()
    if elsewhere := [place for place in places if "--" in str(place)]:
        raise PluginError(
            f"{source.model} takes its code from another repository: {elsewhere[0]}",
            "copy that repository's .py files beside the weights and correct auto_map in config.json",
        )
    return source


def _snapshot(model: str, revision: str | None, more: tuple[str, ...] = ()) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=[*_FETCHED, *more]))
        if not any(folder.glob(_WEIGHTS[0])):
            wanted = [*_FETCHED[:3], *_PICKLED, *more]
            folder = Path(snapshot_download(model, revision=revision, allow_patterns=wanted))
    except Exception as error:  # a dozen kinds: no network, no such model, no such revision, no access
        at = f" at revision {revision}" if revision else ""
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PluginError(
            f"cannot get {model}{at} from the hub: {reason}",
            "check the name, or copy the checkpoint here by other means and give its folder: --model PATH",
        ) from error
    return folder


def load_config(source: Source) -> Any:
    """Return transformers' configuration of a checkpoint; Baichuan's is this package's own.

    Raises:
        PluginError: A kind of model that transformers does not have without remote code.
    """
    from transformers import AutoConfig

    with quiet():
        try:
            if source.config.get("model_type") == "baichuan":
                from mer_plugins.text.baichuan_net import BaichuanConfig

                return BaichuanConfig.from_pretrained(source.folder, local_files_only=True)
            return AutoConfig.from_pretrained(
                source.folder, local_files_only=True, trust_remote_code=source.trusted
            )
        except (OSError, ValueError, KeyError) as error:
            raise _unloadable(source, error) from error


def load_hf_model(
    cls: Any,
    model: str | Source,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    *,
    spare: Iterable[str] = (),
    device_map: str = "",
    key_mapping: Mapping[str, str] | None = None,
    quantization: Any = None,
) -> Any:
    """Load a checkpoint for inference, every tensor of it.

    `from_pretrained` fills what a checkpoint lacks with random numbers and only logs it; here it is an error.
    What comes back is an ordinary module: an adapter can be merged into it afterwards.

    Args:
        cls: A transformers model class, or an `Auto` class.
        model: Folder, hub id, or an already located source.
        revision: Of a hub id.
        device: torch device; `auto` takes a GPU where there is one. Ignored with `device_map`.
        dtype: `float32`, `float16` or `bfloat16`.
        spare: Regular expressions of tensors that no feature depends on, whose absence does not matter.
        key_mapping: Regular expression -> replacement, for tensors that have other names in the files.
        device_map: `auto` spreads the model over the GPUs and, when those are full, the CPU (accelerate).
        quantization: transformers' configuration of a quantised model.

    Returns:
        The model in evaluation mode.

    Raises:
        PluginError: Tensors are missing, of other shapes, or left over where the model has room for them;
            weights that are more than tensors; a kind of model that needs remote code.
    """
    import torch

    source = model if isinstance(model, Source) else locate(model, revision)
    if dtype not in DTYPES:
        raise PluginError(f"no dtype {dtype!r} to compute in", f"there are: {', '.join(DTYPES)}")
    placed: dict[str, Any] = {"device_map": device_map} if device_map else {}
    if quantization is not None:
        device_map = device_map or str(pick_device(device))  # such weights do not move afterwards
        placed = {"device_map": device_map, "quantization_config": quantization}
    if key_mapping:
        placed["key_mapping"] = dict(key_mapping)
    with quiet():
        try:
            net, info = cls.from_pretrained(
                source.folder,
                local_files_only=True,
                trust_remote_code=source.trusted,
                weights_only=True,
                dtype=getattr(torch, dtype),
                output_loading_info=True,
                **placed,
            )
        except pickle.UnpicklingError as error:
            raise PluginError(
                f"the weights in {source.folder} are pickled and more than tensors, which could run code",
                "get them as safetensors",
            ) from error
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise _unloadable(source, error) from error
    _refuse_gaps(source, net, info, list(spare))
    net = net.eval().requires_grad_(False)
    return net if device_map else net.to(pick_device(device))


def pick_device(device: str) -> "torch.device":
    """Return the torch device; `auto` is the first GPU, else the CPU.

    Raises:
        PluginError: No such device here.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for the device
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise PluginError(f"no device {device!r} here: {reason}", "say cpu, cuda or cuda:N") from error


def _refuse_gaps(source: Source, net: Any, info: Mapping[str, Any], spare: list[str]) -> None:
    missing = [key for key in info["missing_keys"] if not any(re.search(p, key) for p in spare)]
    modules = {name for name, _ in net.named_modules() if name}
    prefix = net.base_model_prefix + "."
    # A head of another task is no matter. Tensors of a module that is there say the configuration is wrong.
    stray = [
        key
        for key in info["unexpected_keys"]
        if key.endswith(("weight", "bias")) and key.removeprefix(prefix).split(".")[0] in modules
    ]
    for what, keys in (("lacks", missing), ("has tensors its configuration has no place for:", stray)):
        if keys:
            some = ", ".join(sorted(keys)[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            raise PluginError(
                f"{source.folder} {what} {some}",
                f"it is no whole checkpoint of {type(net).__name__}; nothing is filled with random numbers",
            )


def _unloadable(source: Source, error: Exception) -> PluginError:
    kind = source.config.get("model_type", "?")
    if "auto_map" in source.config and isinstance(error, (ValueError, KeyError)):
        return PluginError(
            f"{source.model} (model type {kind!r}) needs the code beside its weights, which is not run",
            "choose a model that transformers has itself; hf-text and hf-decoder take --trust-remote-code, "
            "for code you have read",
        )
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return PluginError(f"cannot load {source.folder} (model type {kind!r}): {reason}", "is it whole?")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and loading reports off the screen; what matters of them is raised."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers gives it no types
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]  # as above


def is_hub_id(model: str) -> bool:
    """Say whether a name has the form OWNER/NAME of the hub."""
    return "/" in model and _HUB_ID.fullmatch(model) is not None


def digest_of(data: bytes) -> str:
    """Return the SHA-256 (hex) of some bytes."""
    return hashlib.sha256(data).hexdigest()


def _digest(files: list[Path]) -> str:
    """SHA-256 (hex) over the names and SHA-256 of some files."""
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.name} {sha256(file)}\n".encode())
    return whole.hexdigest()


def sha256(file: Path) -> str:
    """Return a file's SHA-256 (hex), remembered by path, size and time so that large weights are read once.

    The hub's cache names large files by their hash already.
    """
    real = file.resolve()
    if real.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", real.name):
        return real.name
    stat = real.stat()
    stamp = f"{real}\n{stat.st_size}\n{stat.st_mtime_ns}"
    note = _cache() / hashlib.sha256(stamp.encode()).hexdigest()
    if stat.st_size > 1 << 24 and note.is_file():
        return note.read_text()
    with real.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if stat.st_size > 1 << 24:
        _remember(note, found)
    return found


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mer-fs" / "sha256"


def _remember(note: Path, found: str) -> None:
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        draft = note.with_name(f"{note.name}.{os.getpid()}")
        draft.write_text(found)
        draft.replace(note)
    except OSError:  # a home that cannot be written to costs time, nothing else
        return
