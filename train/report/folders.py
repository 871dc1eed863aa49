"""The files of run folders, or of a packed file, by name."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from train.errors import InputError
from train.runs import documents

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
            raise documents.malformed(self.place / file, reason)

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
    try:
        root = root.resolve()
        paths = sorted(root.rglob("config.json"))
    except (OSError, RuntimeError) as error:  # A link in a circle, a long name.
        raise InputError(f"{root} cannot be read ({error}); name another") from None
    for path in paths:
        folder = path.parent
        below = folder.relative_to(root)
        if any(part.startswith(".") for part in below.parts):
            continue
        in_trials = below.parts[-2:-1] == ("trials",)
        if in_trials and (folder.parents[1] / "config.json").exists():
            continue
        try:
            config = documents.read_config(folder)
        except InputError:
            if any((folder / name).exists() for name in _RESULTS):
                raise
            continue  # It is the file of another program.
        names = wanted(config["config"]["experiment"])
        if names is None:
            continue
        files: dict[str, Content] = {"config.json": config}
        for name in names:
            if (folder / name).exists():
                files[name] = _READERS[Path(name).suffix](folder / name)
        yield Folder(folder, Path(root.name) / below, files, _protocol(folder))


_RESULTS = ("metrics.jsonl", "summary.json", "trials.jsonl", "findings.md")
_READERS: dict[str, Callable[[Path], Content]] = {
    ".json": documents.read_json,
    ".jsonl": documents.read_rows,
    ".md": documents.read_text,
}


def _protocol(folder: Path) -> str | None:
    """The protocol of the sweep around a final run, ``SWEEP/final/RUN``."""
    sweep = folder.parent.parent
    if folder.parent.name != "final" or not (sweep / "config.json").exists():
        return None
    return documents.read_config(sweep)["config"].get("protocol")
