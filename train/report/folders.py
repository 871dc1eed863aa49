"""Reads and parses the files of run folders, or of a packed file."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from train.errors import InputError

Content = Any  # A JSON document, the rows of a JSONL file, or a text.


@dataclasses.dataclass(frozen=True)
class Folder:
    """The content of one folder.

    Attributes:
        place: Path of the folder, for messages.
        name: Path relative to the folder that was asked for.
        files: Content by file name.
        protocol: Protocol of the sweep whose final run this is, if it is one.
    """

    place: Path
    name: Path
    files: dict[str, Content]
    protocol: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        return self.files["config.json"]["config"]

    @property
    def experiment(self) -> str:
        return self.options["experiment"]

    @property
    def environment(self) -> dict[str, Any]:
        """Versions and hardware."""
        document = self.files["config.json"]
        return {key: document[key] for key in document if key != "config"}

    def missing(self, *names: str) -> str:
        """The names of the files that are not there, joined by commas."""
        return ", ".join(name for name in names if name not in self.files)

    def check(self, met: bool, file: str, reason: str) -> None:
        """Raises an `InputError` about a file unless a condition is met."""
        if not met:
            raise malformed(self.place / file, reason)

    def fields(self, file: str, **kinds: Any) -> dict[str, Any]:
        """The named entries of a JSON object, each of the type given."""
        document = self.files[file]
        self.check(isinstance(document, dict), file, "not a JSON object")
        for key, kind in kinds.items():
            self.check(isinstance(document.get(key), kind), file, f"no valid {key}")
        return {key: document[key] for key in kinds}


def find_folders(
    root: Path, wanted: Callable[[str], tuple[str, ...] | None]
) -> Iterator[Folder]:
    """Reads the folders of experiments at and below `root`.

    The trials of a sweep are left out unless they are asked for by name, since the
    sweep itself has a row for each of them.

    Args:
        root: A folder.
        wanted: ``experiment -> `` the files to read, or None to leave it out.

    Raises:
        InputError: If a file cannot be parsed.
    """
    root = root.resolve()
    for path in sorted(root.rglob("config.json")):
        folder = path.parent
        below = folder.relative_to(root)
        if any(part.startswith(".") for part in below.parts):
            continue
        in_trials = below.parts[-2:-1] == ("trials",)
        if in_trials and (folder.parents[1] / "config.json").exists():
            continue
        config = _parse(path)
        names = wanted(_options(config).get("experiment", ""))
        if names is None:
            continue
        files = {"config.json": config}
        for name in names:
            if (folder / name).exists():
                files[name] = _parse(folder / name)
        yield Folder(folder, Path(root.name) / below, files, _protocol(folder))


def _protocol(folder: Path) -> str | None:
    """The protocol of the sweep around a final run, ``SWEEP/final/RUN``."""
    path = folder.parent.parent / "config.json"
    if folder.parent.name != "final" or not path.exists():
        return None
    return _options(_parse(path)).get("protocol")


def _options(document: Any) -> dict[str, Any]:
    options = document.get("config") if isinstance(document, dict) else None
    return options if isinstance(options, dict) else {}


def _parse(path: Path) -> Content:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise malformed(path, f"cannot be read ({error})") from None
    if path.suffix == ".md":
        return text
    if path.suffix == ".jsonl":
        return parse_lines(path, text)
    try:
        return load(text)
    except ValueError as error:
        raise malformed(path, f"not JSON ({error})") from None


def parse_lines(path: Path, text: str) -> list[dict[str, Any]]:
    """The rows of a JSONL file, each an object.

    Args:
        path: Path of the file, for messages.
        text: Content of the file.
    """
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            row = load(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise malformed(path, f"row {number} is not a row of metrics")
        rows.append(row)
    return rows


def load(text: str) -> Any:
    """Parses JSON that holds no NaN and no infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number of JSON")

    return json.loads(text, parse_constant=refuse)


def malformed(path: Path, reason: str) -> InputError:
    """The error for a file that is not as a command writes it."""
    return InputError(
        f"{path}: {reason}; run its command again or move the folder away"
    )
