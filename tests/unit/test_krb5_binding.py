"""The binding itself: compiled from the same declarations as the fallback, and one consistent table of errors."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from pathlib import Path

import cffi
import pytest

from hipercow_slurm import errors
from hipercow_slurm.krb5 import build, cdef, codes, lib


def test_the_suite_runs_on_the_compiled_module() -> None:
    assert lib.MODE == "api", "run: python -m hipercow_slurm.krb5.build"


def test_layouts_of_the_fallback_are_those_the_compiler_checked() -> None:
    fallback = cffi.FFI()
    fallback.cdef(cdef.CDEF)
    checked = 0
    for name in ("krb5_data", "krb5_principal_data", "krb5_keyblock", "krb5_address", "krb5_ticket_times"):
        checked += compare(fallback, name)
    for name in ("krb5_creds", "krb5_authenticator", "krb5_error", "krb5_keytab_entry", "krb5_verify_init_creds_opt"):
        checked += compare(fallback, name)
    assert checked > 50


def compare(fallback: cffi.FFI, name: str) -> int:
    """Sizes and offsets of one struct in both modes; the number of fields compared."""
    assert fallback.sizeof(name) == lib.ffi.sizeof(name), name
    ours = {field: info.offset for field, info in fallback.typeof(name).fields}
    theirs = {field: info.offset for field, info in lib.ffi.typeof(name).fields}
    assert ours == theirs, name
    return len(ours)


def test_fallback_has_every_function() -> None:
    fallback = cffi.FFI()
    fallback.cdef(cdef.CDEF)
    library = fallback.dlopen("libkrb5.so.3")
    missing = [name for name in dir(lib.lib) if name.startswith("krb5_") and not hasattr(library, name)]
    assert not missing
    assert {name: getattr(library, name) for name in codes.NUMBERS} == codes.NUMBERS


def test_build_has_nothing_to_do_and_says_nothing() -> None:
    done = subprocess.run([sys.executable, "-m", build.__name__], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_build_that_fails_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "TARGET", tmp_path / "_libkrb5.abi3.so")
    monkeypatch.setenv("CC", "sh -c 'echo krb5.h: no such file >&2; exit 1'")
    assert build.main() == 1
    assert "libkrb5-dev" in (said := capsys.readouterr().err) and "no such file" in said
    assert list(tmp_path.iterdir()) == []


def test_table_rows_can_all_be_reached() -> None:
    for stage, name in codes.ERRORS:
        assert stage == codes.ANY or stage in codes.DEFAULTS, (stage, name)
        assert name in codes.NUMBERS or hasattr(errno, name), f"{name} has no number"
    for number in (*codes.NUMBERS.values(), errno.EPERM, 12345, -1):
        for stage in codes.DEFAULTS:
            row = codes.row(number, stage)
            assert issubclass(row.family, errors.Error) and row.code


def test_errors_carry_number_and_cause_but_never_a_line_break() -> None:
    error = lib.error_of(codes.NUMBERS["KRB5_KDC_UNREACH"], "reach the KDC", codes.TGS)
    assert "KRB5_KDC_UNREACH -1765328228" in str(error)
    assert isinstance(error.__cause__, lib.Krb5Error) and error.__cause__.number == -1765328228
    unknown = lib.error_of(-1765328129, "trace", codes.SETUP)
    assert isinstance(unknown, errors.InternalError) and "-1765328129" in str(unknown)
    assert str(error).isprintable()


def test_wipe() -> None:
    secret = lib.ffi.new("char[]", b"secret")
    lib.wipe(secret)
    assert bytes(lib.ffi.buffer(secret)) == b"\0" * 7


def test_each_thread_has_its_context_and_frees_it() -> None:
    mine = lib.context()
    assert lib.context() == mine
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(lib.context() != mine)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 5
    with lib.fresh() as other:
        assert other != mine and lib.context() == mine


def test_pure_modules_do_not_load_the_library() -> None:
    """The agent's short-lived children and the wire's tests use these without libkrb5."""
    loaded = "{'cffi', 'hipercow_slurm.krb5.lib'} & set(sys.modules)"
    for name in ("krbcred", "ccache", "principal", "asn1", "krberror", "codes"):
        assert (
            subprocess.run(
                [sys.executable, "-c", f"import sys, hipercow_slurm.krb5.{name}; sys.exit(bool({loaded}))"]
            ).returncode
            == 0
        ), f"{name} loads cffi or libkrb5"
