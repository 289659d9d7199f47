"""Which file server has a path, and which bytes of a file are meant."""

import pytest

from hipercow_slurm.api.config import Files
from hipercow_slurm.api.output import CHUNK, Outputs, Piece, RangeError, parse_range, resolve
from hipercow_slurm.errors import RequestError, UnavailableError
from hipercow_slurm.files.nfs4_client import Server

FILES = [
    Files(prefix="/home", server="files.test", export="/home"),
    Files(prefix="/home/big/", server="big.test", export="/vol1", port=2050),
    Files(prefix="/scratch", server="files.test", export="/"),
]


@pytest.fixture(scope="module")
def outputs():
    outputs = Outputs(FILES)
    yield outputs
    outputs.close()


@pytest.mark.parametrize(
    ("path", "host", "remote"),
    [
        ("/home/alice/slurm-1.out", "files.test", "/home/alice/slurm-1.out"),
        ("/home/big/alice/o", "big.test", "/vol1/alice/o"),
        ("/home/bigger/o", "files.test", "/home/bigger/o"),
        ("/scratch/x", "files.test", "/x"),
        ("/home", "files.test", "/home"),
        ("/scratch/", "files.test", "/"),
        ("/scratch/../home/alice//o", "files.test", "/home/alice/o"),
        ("//home/alice/o", "files.test", "/home/alice/o"),
    ],
)
def test_the_longest_prefix_decides(outputs, path, host, remote):
    server, found = outputs.locate(path)
    assert (server.host, found) == (host, remote)
    assert server.security == "krb5p"


@pytest.mark.parametrize("path", ["/etc/passwd", "/", "/home/../etc/passwd", "/homes/alice/o", "/tmp/o", "/dev/null"])
def test_elsewhere_is_not_read(outputs, path):
    with pytest.raises(RequestError) as caught:
        outputs.locate(path)
    assert (caught.value.code, caught.value.status) == ("output-elsewhere", 404)


@pytest.mark.parametrize(
    ("header", "size", "piece"),
    [
        (None, 10, Piece(0, 10, 10, whole=True)),
        (None, 0, Piece(0, 0, 0, whole=True)),
        ("bytes=0-", 10, Piece(0, 10, 10, whole=False)),
        ("bytes=4-", 10, Piece(4, 10, 10, whole=False)),
        ("bytes=4-6", 10, Piece(4, 7, 10, whole=False)),
        ("bytes=4-600", 10, Piece(4, 10, 10, whole=False)),
        ("bytes=-3", 10, Piece(7, 10, 10, whole=False)),
        ("bytes=-30", 10, Piece(0, 10, 10, whole=False)),
        ("bytes=1-2,5-6", 10, Piece(0, 10, 10, whole=True)),
        ("lines=1-2", 10, Piece(0, 10, 10, whole=True)),
        ("bytes=6-4", 10, Piece(0, 10, 10, whole=True)),
        ("bytes=-", 10, Piece(0, 10, 10, whole=True)),
        ("bytes=1" + "0" * 30 + "-", 10, Piece(0, 10, 10, whole=True)),
        ("bytes=\u0664-", 10, Piece(0, 10, 10, whole=True)),
    ],
)
def test_ranges(header, size, piece):
    assert resolve(parse_range(header), size) == piece


@pytest.mark.parametrize(("header", "size"), [("bytes=10-", 10), ("bytes=0-", 0), ("bytes=-0", 10), ("bytes=-5", 0)])
def test_past_the_end_is_416_and_says_the_size(header, size):
    with pytest.raises(RangeError) as caught:
        resolve(parse_range(header), size)
    assert (caught.value.status, caught.value.code, caught.value.size) == (416, "no-such-range", size)


async def test_an_answer_breaks_off_where_the_file_became_shorter(outputs, monkeypatch):
    """It ended early and quietly: the web server then found fewer bytes than were announced, and a bug was logged."""

    async def read(server, remote, cred, offset, limit):
        return (b"x" * CHUNK, 3 * CHUNK) if offset == 0 else (b"", 10)

    monkeypatch.setattr(outputs, "_read", read)
    _, chunks = await outputs.open_path(Server("files.test"), "/home/o", None, None)
    with pytest.raises(UnavailableError) as caught:
        assert [len(chunk) async for chunk in chunks] == []
    assert caught.value.code == "file-changed", caught.value
