"""The compiled half of the distribution; everything else is in pyproject.toml.

Without HIPERCOW_SLURM_BINDING the wheel is pure Python (py3-none-any): what a laptop installs. With it the wheel also
holds the compiled door to libkrb5, and its tag says for which platform: pip takes that one where it fits.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCE = Path(__file__).parent / "src"


class Binding(build_ext):
    """Compiles the binding the way the source tree does."""

    def build_extension(self, ext: Extension) -> None:
        sys.path.insert(0, str(SOURCE))
        from hipercow_slurm.krb5 import build

        with tempfile.TemporaryDirectory() as folder:
            done: subprocess.CompletedProcess[str] = build.compile_in(Path(folder))
            if done.returncode:
                raise SystemExit(f"cannot compile the libkrb5 binding (is libkrb5-dev installed?):\n{done.stderr}")
            target = Path(self.get_ext_fullpath(ext.name))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((Path(folder) / build.TARGET.name).read_bytes())
            target.chmod(0o755)


if os.environ.get("HIPERCOW_SLURM_BINDING"):
    setup(
        setup_requires=["cffi>=1.16"],
        ext_modules=[Extension("hipercow_slurm.krb5._libkrb5", [], py_limited_api=True)],
        cmdclass={"build_ext": Binding},
        options={"bdist_wheel": {"py_limited_api": "cp311"}},
    )
else:
    setup()
