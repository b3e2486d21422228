"""Luigi, imported before all else: it reads its configuration then, so that a malformed file ends every command.

Of that the command `superluigi`, also as `doctor`, says a sentence and ends with 2, as of any configuration that cannot
be used. To whoever imports the package Luigi's own error goes as it is. The invariant: where Luigi can be imported
nothing else happens here.
"""

from __future__ import annotations

import configparser
import os
import sys

_PLACES = ("/etc/luigi/client.cfg", "/etc/luigi/luigi.cfg", "client.cfg", "luigi.cfg")
_PLACES_OF_TOML = ("/etc/luigi/luigi.toml", "luigi.toml")


def _is_command() -> bool:
    """Say whether this is the command, whose own module cannot be imported without Luigi."""
    name = os.path.splitext(os.path.basename(sys.argv[0]))[0] if sys.argv else ""
    return name == "superluigi" or (name == "-m" and "superluigi" in sys.orig_argv)


def _told(error: Exception) -> str:
    is_toml = os.environ.get("LUIGI_CONFIG_PARSER") == "toml"
    places = [*(_PLACES_OF_TOML if is_toml else _PLACES), os.environ.get("LUIGI_CONFIG_PATH", "")]
    files = ", ".join(os.path.abspath(place) for place in places if os.path.isfile(place))
    said = " ".join(str(error).split()).rstrip(".")
    return (
        f"error: Luigi cannot read its configuration, {files}: {said}. "
        "Correct the file, or take it away; nothing can be done before.\n"
    )


try:
    import luigi  # noqa: F401
except (configparser.Error, ValueError) as error:  # the latter of TOML, and of bytes that are no UTF-8
    if not _is_command():
        raise
    sys.stderr.write(_told(error))
    raise SystemExit(2) from None
