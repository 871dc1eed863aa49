"""Build the wheel and check that it holds the library, its types and nothing else."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

with tempfile.TemporaryDirectory() as folder:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*build, "--wheel-dir", folder, str(ROOT)], check=True)
    (wheel,) = Path(folder).glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()

packages = {name.split("/")[0] for name in names if ".dist-info/" not in name}
expected = {
    str(path.relative_to(ROOT))
    for path in [*ROOT.glob("lawn_optax/**/*.py"), ROOT / "lawn_optax" / "py.typed"]
}
missing = sorted(expected - set(names))
licence = any(name.endswith("/licenses/LICENSE") for name in names)
if packages != {"lawn_optax"} or missing or not licence:
    sys.exit(
        f"{wheel.name} must hold lawn_optax alone, whole, and the licence: it holds "
        f"{sorted(packages)}, lacks {missing}, licence found: {licence}. "
        "See [tool.hatch.build.targets.wheel] in pyproject.toml."
    )
print(f"{wheel.name}: {len(names)} files, lawn_optax alone, with py.typed and licence")
