"""``python -m hipercow_slurm.krb5.build`` compiles the binding to libkrb5 next to this file, if its sources are newer.

The compiled module (API mode, abi3) is what production and tests should run: the C compiler has compared every
declaration of ``cdef.py`` with krb5.h. Without it ``lib.py`` falls back to dlopen with the same declarations.
Needs a C compiler, Python's headers and libkrb5-dev. Says nothing when there is nothing to do.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import cffi

from hipercow_slurm.krb5 import cdef, codes, glue, line_source

MODULE = "hipercow_slurm.krb5._libkrb5"
TARGET = Path(__file__).with_name("_libkrb5.abi3.so")


def main() -> int:
    """Build if needed; exit code 1 with the compiler's own words if it cannot be built."""
    sources = [Path(module.__file__ or "") for module in (cdef, codes, glue, line_source)] + [Path(__file__)]
    if TARGET.exists() and all(source.stat().st_mtime <= TARGET.stat().st_mtime for source in sources):
        return 0
    # A folder of its own, on the same file system: two builds at once do not meet, and the last rename wins whole.
    with tempfile.TemporaryDirectory(prefix=".build-", dir=TARGET.parent) as folder:
        done = compile_in(Path(folder))
        if done.returncode:
            print(f"cannot compile the libkrb5 binding (is libkrb5-dev installed?):\n{done.stderr}", file=sys.stderr)
            return 1
        (Path(folder) / TARGET.name).replace(TARGET)
    print(f"built {TARGET.name}")
    return 0


def compile_in(folder: Path) -> subprocess.CompletedProcess[str]:
    """Compile the binding in ``folder``; the compiler's result."""
    ffi = cffi.FFI()
    ffi.cdef(cdef.CDEF + cdef.CALLBACKS + line_source.DECLARATIONS + glue.DECLARATIONS)
    ffi.set_source(MODULE, line_source.SOURCE + glue.SOURCE, py_limited_api=True)
    source = folder / "_libkrb5.c"
    with contextlib.redirect_stdout(None):  # cffi tells what it generates
        ffi.emit_c_code(str(source))
    command = [
        *shlex.split(os.environ.get("CC", "cc")),
        *("-shared", "-fPIC", "-O2", "-g0", "-Wall", "-Wno-unused-function", "-DPy_LIMITED_API=0x030b0000"),
        f"-I{sysconfig.get_paths()['include']}",
        *_krb5_config("--cflags"),
        *(str(source), "-o", str(folder / TARGET.name)),
        *_krb5_config("--libs"),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def _krb5_config(what: str) -> list[str]:
    """Compiler flags as MIT's krb5-config tells them; plain -lkrb5 where there is none."""
    program = shutil.which("krb5-config")
    if program is None:
        return ["-lkrb5"] if what == "--libs" else []
    # It asks the compiler too, and takes CC for one word.
    environment = {name: value for name, value in os.environ.items() if name != "CC"}
    command = [program, what, "krb5"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    # -Wl options are those of the distribution's own build, not ours.
    return [word for word in shlex.split(done.stdout) if not word.startswith("-Wl")]


if __name__ == "__main__":
    sys.exit(main())
