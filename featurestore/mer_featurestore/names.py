"""What may be a name (of a space, layer, run, adapter), what may be a key, and fresh paths for new files."""

import secrets
import time
import unicodedata

from mer_featurestore.errors import BadName

MAX_NAME_BYTES = 200  # a path component may have 255 bytes; the rest is for suffixes
MAX_KEY_BYTES = 512
PUNCTUATION = frozenset("._-+@=")
WINDOWS_RESERVED = frozenset(
    {"con", "prn", "aux", "nul", "clock$"}
    | {f"{port}{i}" for port in ("com", "lpt") for i in "0123456789¹²³"}
)


def check_name(name: str, what: str = "name") -> str:
    """Return the name when it is safe as one path component on every system.

    Args:
        name: Name of a space, layer, run or adapter: letters of any script, digits and `. _ - + @ =`.
        what: What it names, for the message.

    Raises:
        BadName: It is empty, too long, not NFC, reserved on Windows, starts with a dot or dash, ends with a
            dot, or has any other character (separators, spaces, control characters …).
    """
    problem = _name_problem(name)
    if problem:
        article = "an" if what.startswith("a") else "a"
        raise BadName(
            f"{shown(name)} cannot be the name of {article} {what}: {problem}",
            "use letters, digits and . _ - + @ = (at most 200 bytes)",
        )
    return name


def check_key(key: str) -> str:
    """Return the key when it can be stored: 1 to 512 bytes of UTF-8 without control characters.

    Keys are data, never paths, so `../x` or `a/b` is a fine key.

    Raises:
        BadName: It is empty, too long, or has control characters or lone surrogates.
    """
    problem = _key_problem(key)
    if problem:
        raise BadName(f"{shown(key)} cannot be a key: {problem}", "rename the clip")
    return key


def check_relative(path: str) -> str:
    """Return the path when it is a relative posix path that stays below its folder.

    Raises:
        BadName: It is absolute or empty, has `..`, empty components, backslashes or control characters.
    """
    parts = path.split("/")
    bad = any(part in ("", ".", "..") or len(part.encode("utf-8", "replace")) > 255 for part in parts)
    if bad or "\\" in path or ":" in parts[0] or _has_control(path) or _has_surrogate(path):
        raise BadName(f"{shown(path)} is not a safe relative path", "use names like config.json or a/b.json")
    return path


def fresh(folder: str) -> str:
    """Return a path below `folder` that nobody else gets: 8 hex digits of time, then 12 random ones."""
    return f"{folder}/{int(time.time()) & 0xFFFFFFFF:08x}{secrets.token_hex(6)}"


def shown(name: object) -> str:
    """Return a name for a message: quoted, escaped and cut."""
    text = ascii(name) if not isinstance(name, str) or _has_surrogate(name) else repr(name)
    return text if len(text) <= 80 else text[:76] + "…" + text[-1]


def _name_problem(name: object) -> str:
    problem = _text_problem(name, MAX_NAME_BYTES)
    if problem or not isinstance(name, str):
        return problem
    if unicodedata.normalize("NFC", name) != name:
        return "it is not in Unicode normal form C"
    if name[0] in ".-" or name[-1] == ".":
        return "it starts with a dot or dash, or ends with a dot"
    odd = [c for c in name if c not in PUNCTUATION and unicodedata.category(c)[0] not in "LMN"]
    if odd:
        return f"it has {shown(odd[0])}"
    if name.split(".")[0].lower() in WINDOWS_RESERVED:
        return "Windows reserves it"
    return ""


def _key_problem(key: object) -> str:
    return _text_problem(key, MAX_KEY_BYTES)


def _text_problem(text: object, limit: int) -> str:
    if not isinstance(text, str):
        return f"it is a {type(text).__name__}, not text"
    if not text:
        return "it is empty"
    if _has_surrogate(text):
        return "it is not valid Unicode"
    if len(text.encode()) > limit:
        return f"it has {len(text.encode())} bytes, more than {limit}"
    return "it has control characters" if _has_control(text) else ""


def _has_control(text: str) -> bool:
    return not text.isprintable() and any(unicodedata.category(c) == "Cc" for c in text)


def _has_surrogate(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text)
