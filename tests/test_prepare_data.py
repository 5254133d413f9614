"""tools/prepare_data.py against a server on the loopback interface."""

import hashlib
import io
import json
import shutil
import ssl
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError

import pytest
from make_data import make_clevr, make_folders

import cfg
from data import catalog
from data.coop import CoOp
from data.dataset import Dataset, Download
from errors import RunError, UserError
from tools import prepare_data
from tools.preparing import downloading

COUNTS = (4, 2, 2)
IMAGES = {
    f"{kind}/{number}.jpg": f"{kind} {number} ".encode() * 40_000 for kind in ("cat", "dog") for number in range(4)
}
COMPLETE = "tiny: complete (2 classes, 4 training, 2 validation, 2 test images)"


def split_json() -> bytes:
    rows = {kind: [[f"{kind}/{n}.jpg", label, kind] for n in range(4)] for label, kind in enumerate(("cat", "dog"))}
    parts = {"train": slice(0, 2), "val": slice(2, 3), "test": slice(3, 4)}
    return json.dumps({part: rows["cat"][cut] + rows["dog"][cut] for part, cut in parts.items()}).encode()


def tar_gz(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz", compresslevel=0) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


ARCHIVE = tar_gz({f"images/{name}": data for name, data in IMAGES.items()})
MD5 = hashlib.md5(ARCHIVE).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `files` by path; `log` holds (path, Range header or None, bytes sent)."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/split.json": split_json(), "/images.tar.gz": ARCHIVE}
        self.content_type, self.ranges = "application/octet-stream", True
        self.head: int | None = None  # the status with which every HEAD is answered
        self.cuts: list[int | None] = []  # after how many bytes the next connections break
        self.log: list[tuple[str, str | None, int]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_):
        """A client that hangs up before the end is nothing to report."""

    def asked(self, path: str) -> list[tuple[str | None, int]]:
        return [entry[1:] for entry in self.log if entry[0] == path]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self):
        content = self.server.files.get(self.path)
        status = self.server.head or (404 if content is None else 200)
        self.server.log.append((self.path, "HEAD", 0))
        self.send_response(status)
        self.send_header("Content-Type", self.server.content_type)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()

    def do_GET(self):
        content = self.server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        wanted, status, start = self.headers["Range"], 200, 0
        if wanted and self.server.ranges:
            status, start = 206, int(wanted.removeprefix("bytes=").partition("-")[0])
        if start >= len(content) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.server.log.append((self.path, wanted, 0))
            return self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else None
        end = len(content) if status == 200 or wanted.endswith("-") else int(wanted.rpartition("-")[2]) + 1
        sent = content[start:end][:cut]
        self.server.log.append((self.path, wanted, len(sent)))
        self.send_response(status)
        self.send_header("Content-Type", self.server.content_type)
        self.send_header("Content-Length", str(end - start))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(downloading, "PAUSE", 0.0)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def tiny(server, monkeypatch) -> Dataset:
    """The only row of the table: a split file and an archive of images, as CoOp has them."""
    row = Dataset(
        "tiny",
        CoOp("tiny_home", "images", "split_zhou_Tiny.json"),
        num_classes=2,
        counts=COUNTS,
        downloads=(
            Download((f"{server.url}/split.json",), "tiny_home/split_zhou_Tiny.json"),
            Download((f"{server.url}/images.tar.gz",), "tiny_home/images.tar.gz", MD5, "tiny_home"),
        ),
    )
    return only(monkeypatch, row)


def only(monkeypatch, *rows: Dataset) -> Dataset:
    monkeypatch.setattr(catalog, "DATASETS", rows)
    return rows[0]


def home() -> Path:
    return cfg.data_path / "tiny_home"


def put_part(content: bytes) -> Path:
    home().mkdir(parents=True)
    part = home() / "images.tar.gz.part"
    part.write_bytes(content)
    return part


def images_on_disk() -> dict[str, bytes]:
    root = home() / "images"
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*.jpg")}


def failure(*names: str) -> str:
    with pytest.raises(UserError) as error:
        prepare_data.main(list(names))
    return str(error.value)


def test_downloads_unpacks_and_verifies(tiny, server, capsys):
    prepare_data.main(["tiny"])
    assert images_on_disk() == IMAGES
    assert sorted(path.name for path in home().iterdir()) == [
        "images",
        "images.tar.gz",
        "images.tar.gz.unpacked",
        "split_zhou_Tiny.json",
    ]
    out = capsys.readouterr().out
    assert f"tiny: downloading {server.url}/images.tar.gz" in out
    assert f"{COMPLETE}\n  {home() / 'images.tar.gz'} is unpacked and may be deleted." in out


def test_zip_into_data_path_itself(tiny, server, monkeypatch):
    server.files["/images.zip"] = zipped({f"tiny_home/images/{name}": data for name, data in IMAGES.items()})
    archive = Download((f"{server.url}/images.zip",), "tiny_home/images.zip", None, "")
    only(monkeypatch, replace(tiny, downloads=(tiny.downloads[0], archive)))
    cfg.data_path.mkdir(mode=0o700)
    prepare_data.main(["tiny"])
    assert images_on_disk() == IMAGES
    assert cfg.data_path.stat().st_mode & 0o777 == 0o700, "unpacking leaves the permissions of data_path alone"


def test_a_complete_data_set_is_left_alone(tiny, server, capsys):
    prepare_data.main(["tiny"])
    server.log.clear()
    capsys.readouterr()
    prepare_data.main(["tiny"])
    assert server.log == []
    assert capsys.readouterr().out.startswith(COMPLETE)


def test_images_that_lie_there_already_are_not_fetched(tiny, server):
    for name, data in IMAGES.items():
        file = home() / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    prepare_data.main(["tiny"])
    assert [path for path, *_ in server.log] == ["/split.json"]


def test_nothing_is_fetched_again_after_the_archive_is_deleted(tiny, server, capsys):
    prepare_data.main(["tiny"])
    (home() / "images.tar.gz").unlink()
    (home() / "split_zhou_Tiny.json").unlink()
    server.log.clear()
    capsys.readouterr()
    prepare_data.main(["tiny"])
    assert [path for path, *_ in server.log] == ["/split.json"]
    out = capsys.readouterr().out
    assert COMPLETE in out
    assert "may be deleted" not in out


def test_an_unpacked_archive_is_not_fetched_though_the_data_set_is_not_complete(tiny, server):
    prepare_data.main(["tiny"])
    (home() / "images.tar.gz").unlink()
    (home() / "images/dog/3.jpg").unlink()
    server.log.clear()
    message = failure("tiny")
    assert server.log == []
    assert "tiny: expected 8 image files." in message
    assert f"1 are missing, such as {home() / 'images/dog/3.jpg'}." in message
    assert f"To start over, delete all but the archives in {home()}, then type:" in message


def test_goes_on_with_a_part(tiny, server):
    part = put_part(ARCHIVE[:100_000])
    prepare_data.main(["tiny"])
    assert server.asked("/images.tar.gz") == [("bytes=100000-", len(ARCHIVE) - 100_000)]
    assert images_on_disk() == IMAGES
    assert not part.exists()


def test_starts_over_where_the_server_knows_no_ranges(tiny, server):
    server.ranges = False
    put_part(b"x" * 100_000)
    prepare_data.main(["tiny"])
    assert server.asked("/images.tar.gz") == [("bytes=100000-", len(ARCHIVE))]
    assert images_on_disk() == IMAGES


def test_a_part_that_is_whole(tiny, server):
    put_part(ARCHIVE)
    prepare_data.main(["tiny"])
    assert server.asked("/images.tar.gz") == [(f"bytes={len(ARCHIVE)}-", 0)]
    assert images_on_disk() == IMAGES


def test_a_part_that_is_longer_than_the_file(tiny, server):
    put_part(ARCHIVE + b"more")
    prepare_data.main(["tiny"])
    assert server.asked("/images.tar.gz") == [(f"bytes={len(ARCHIVE) + 4}-", 0), (None, len(ARCHIVE))]
    assert images_on_disk() == IMAGES


def test_broken_connections_are_made_again(tiny, server, capsys):
    server.cuts = [None, 200_000, 300_000]
    prepare_data.main(["tiny"])
    requests = server.asked("/images.tar.gz")
    assert requests[0] == (None, 200_000)
    assert requests[1] == ("bytes=200000-", 300_000)
    assert requests[2] == ("bytes=500000-", len(ARCHIVE) - 500_000)
    assert f"the connection ended after 200000 of {len(ARCHIVE)} bytes; connecting again" in capsys.readouterr().out


def test_gives_up_after_a_few_connections_and_keeps_what_came(tiny, server):
    server.cuts = [None, 1000, *[0] * downloading.ATTEMPTS]
    message = failure("tiny")
    assert len(server.asked("/images.tar.gz")) == downloading.ATTEMPTS
    assert (
        f"It failed:\n{server.url}/images.tar.gz: the connection ended after 1000 of {len(ARCHIVE)} bytes\n" in message
    )
    goes_on = "If you type the command again, it goes on with the 1000 bytes that came."
    assert message.endswith(f"{goes_on} Put the file at {home() / 'images.tar.gz'}. Then type the command again.")
    assert (home() / "images.tar.gz.part").read_bytes() == ARCHIVE[:1000]
    prepare_data.main(["tiny"])
    assert server.asked("/images.tar.gz")[-1] == ("bytes=1000-", len(ARCHIVE) - 1000)


def test_wrong_md5(tiny, server, monkeypatch):
    split_file, archive = tiny.downloads
    only(monkeypatch, replace(tiny, downloads=(split_file, replace(archive, md5="0" * 32))))
    message = failure("tiny")
    wrong = f"{server.url}/images.tar.gz: its file has the md5 {MD5}, not {'0' * 32}; it has been deleted"
    assert f"tiny: images.tar.gz is needed.\nIt failed:\n{wrong}\n" in message
    assert [path.name for path in home().iterdir()] == ["split_zhou_Tiny.json"]


def test_not_on_the_server(tiny, server, monkeypatch):
    del server.files["/images.tar.gz"]
    only(monkeypatch, replace(tiny, by_hand="Or put the images into {data_path}/tiny_home/images/."))
    message = failure("tiny")
    answer = f"{server.url}/images.tar.gz: HTTP Error 404: Not Found"
    assert (
        f"tiny: images.tar.gz is needed.\nIt failed:\n{answer}\nPut the file at {home()}/images.tar.gz. Or" in message
    )
    assert message.endswith(f"Or put the images into {home()}/images/. Then type the command again.")
    assert "later" not in message and len(server.log) == 1, "the split file; a 404 is not asked for again"


def two_addresses(tiny, server, monkeypatch) -> list[str]:
    """The images' archive has two addresses, and the images may also be put by hand."""
    urls = [f"{server.url}/mirror.tar.gz", f"{server.url}/images.tar.gz"]
    split_file, archive = tiny.downloads
    downloads = (split_file, replace(archive, urls=tuple(urls)))
    only(monkeypatch, replace(tiny, downloads=downloads, by_hand="Or unpack zenodo's copy in {data_path}/tiny_home/."))
    return urls


def test_the_first_address_that_has_the_file_is_enough(tiny, server, monkeypatch):
    two_addresses(tiny, server, monkeypatch)
    server.files["/mirror.tar.gz"] = ARCHIVE
    prepare_data.main(["tiny"])
    assert images_on_disk() == IMAGES
    assert [path for path, *_ in server.log] == ["/split.json", "/mirror.tar.gz"]


@pytest.mark.parametrize("mirror", [None, b"another file", ARCHIVE[:-1]])
def test_the_next_address_is_asked(tiny, server, monkeypatch, mirror):
    two_addresses(tiny, server, monkeypatch)
    if mirror:
        server.files["/mirror.tar.gz"] = mirror
    prepare_data.main(["tiny"])
    assert images_on_disk() == IMAGES
    assert [path for path, *_ in server.log][-1] == "/images.tar.gz"
    assert server.asked("/images.tar.gz") == [(None, len(ARCHIVE))], "nothing of the wrong file is kept"


def test_a_part_from_one_address_is_completed_by_the_next(tiny, server, monkeypatch):
    two_addresses(tiny, server, monkeypatch)
    server.files["/mirror.tar.gz"] = ARCHIVE
    server.cuts = [None, 1000, *[0] * (downloading.ATTEMPTS - 1)]
    prepare_data.main(["tiny"])
    assert server.asked("/images.tar.gz") == [("bytes=1000-", len(ARCHIVE) - 1000)]
    assert images_on_disk() == IMAGES


def test_a_part_of_another_file_is_dropped_and_the_same_address_asked_again(tiny, server):
    put_part(b"x" * 1000)
    prepare_data.main(["tiny"])
    assert server.asked("/images.tar.gz") == [("bytes=1000-", len(ARCHIVE) - 1000), (None, len(ARCHIVE))]
    assert images_on_disk() == IMAGES


def test_what_each_address_answered(tiny, server, monkeypatch):
    first, second = two_addresses(tiny, server, monkeypatch)
    del server.files["/images.tar.gz"]
    server.files["/mirror.tar.gz"] = b"another file"
    md5 = hashlib.md5(b"another file").hexdigest()
    assert failure("tiny") == (
        "tiny: images.tar.gz is needed.\nIt failed:\n"
        f"{first}: its file has the md5 {md5}, not {MD5}; it has been deleted\n"
        f"{second}: HTTP Error 404: Not Found\n"
        f"Put the file at {home()}/images.tar.gz. Or unpack zenodo's copy in {home()}/. Then type the command again."
    )


def test_a_file_without_an_address(tiny, server, monkeypatch):
    """It has to be put there by hand, or it was in the archive before it."""
    outer = Download((f"{server.url}/outer.zip",), "tiny_home/outer.zip", None, "")
    inner = Download((), "tiny_home/images.tar.gz", None, "tiny_home")
    only(monkeypatch, replace(tiny, downloads=(tiny.downloads[0], inner)))
    message = failure("tiny")
    assert message.startswith("tiny: images.tar.gz is needed.\nNo server is known that has it.\nPut the file at ")
    server.files["/outer.zip"] = zipped({"tiny_home/images.tar.gz": ARCHIVE})
    only(monkeypatch, replace(tiny, downloads=(tiny.downloads[0], outer, inner)))
    prepare_data.main(["tiny"])
    assert images_on_disk() == IMAGES


def test_a_certificate_that_is_not_valid_is_not_asked_for_again(monkeypatch):
    expired = URLError(ssl.SSLCertVerificationError("certificate has expired"))
    asked = []

    def connect():
        asked.append(1)
        raise expired

    with pytest.raises(URLError, match="certificate has expired"):
        downloading.patiently(connect)
    assert len(asked) == 1


def checked(*names: str) -> str:
    """The message of `--check`."""
    with pytest.raises(RunError) as error:
        prepare_data.main(["--check", *names])
    assert error.value.exit_code == 1
    return str(error.value)


@pytest.mark.parametrize("head", [None, 403, 405, 501])
def test_check_finds_every_address_alive(tiny, server, capsys, head):
    """Of a server that refuses HEAD, one byte is asked for."""
    server.head = head
    prepare_data.main(["--check"])
    assert len(split_json()) < 1000 and 10**6 < len(ARCHIVE) < 10**7
    assert capsys.readouterr().out.splitlines() == [
        "data set  file                            answer               address",
        f"tiny      tiny_home/split_zhou_Tiny.json  ok, {len(split_json())} bytes        {server.url}/split.json",
        f"tiny      tiny_home/images.tar.gz         ok, {len(ARCHIVE):,} bytes  {server.url}/images.tar.gz",
    ]
    assert server.asked("/images.tar.gz") == [("HEAD", 0)] + [("bytes=0-0", 1)] * bool(head)
    assert not cfg.data_path.exists(), "nothing is kept"


def test_check_of_a_server_that_knows_neither_head_nor_ranges(tiny, server, capsys):
    server.head, server.ranges = 405, False
    prepare_data.main(["--check"])
    assert f"ok, {len(ARCHIVE):,} bytes" in capsys.readouterr().out


def test_check_names_every_dead_address(tiny, server, monkeypatch, capsys):
    mirror, _ = two_addresses(tiny, server, monkeypatch)
    message = checked()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[2].split(maxsplit=2)[2] == f"HTTP Error 404: Not Found  {mirror}"
    assert lines[3].endswith("/images.tar.gz") and " ok, " in lines[3]
    assert f"asked for at 3 addresses.\n1 of them did not give it:\n  {mirror}\n" in message
    assert message.endswith("Replace each in data/catalog.py by an address that has a file of the same md5.")


def test_check_takes_a_web_page_for_no_file(tiny, server, capsys):
    server.content_type = "text/html"
    message = checked("tiny")
    assert "Not one of them gave it" in message and "whether this machine reaches the network" in message
    assert capsys.readouterr().out.count("a web page came instead of the file") == 2


def test_check_says_what_it_does_not_ask_for(tiny, monkeypatch, capsys):
    """As of cars_train.tgz, which no server has, and of abide, which is made by scripts."""
    lost = replace(tiny, name="lost", downloads=(Download((), "lost/images.tgz", extract_to="lost"),))
    made = replace(tiny, name="made", downloads=(), by_hand="Run its scripts.")
    only(monkeypatch, lost, made)
    prepare_data.main(["--check"])
    assert capsys.readouterr().out.splitlines()[1:] == [
        "Not asked for, without an address of their own: lost/images.tgz",
        "Made by hand: made",
    ]


def test_check_without_a_network(tiny, monkeypatch, capsys):
    """The table is all that is printed: connecting again is not told, and no list of addresses follows."""

    def unreachable(request, timeout):
        raise URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setattr(downloading, "urlopen", unreachable)
    monkeypatch.setattr(downloading.time, "sleep", lambda seconds: None)
    message = checked()
    assert capsys.readouterr().out.count("\n") == 1 + 2 and "http" not in message


def test_check_of_some_names(tiny, server, monkeypatch, capsys):
    other = replace(tiny, name="other", downloads=(Download((f"{server.url}/lost",), "other/lost"),))
    only(monkeypatch, tiny, other)
    prepare_data.main(["--check", "tiny"])
    assert "other" not in capsys.readouterr().out
    assert "at 1 address.\nNot one of them gave it" in checked("other")
    assert "there is no such name" in failure("--check", "tinny")


def test_no_server(tiny, monkeypatch):
    gone = Download(("http://127.0.0.1:9/split.json",), "tiny_home/split_zhou_Tiny.json")
    only(monkeypatch, replace(tiny, downloads=(gone,)))
    monkeypatch.setattr(downloading, "TIMEOUT", 5.0)
    message = failure("tiny")
    assert "Connection refused" in message
    assert f"Put the file at {home() / 'split_zhou_Tiny.json'}." in message


def test_web_page_of_google_drive(tiny, server, monkeypatch):
    drive = Download(("drive:AbC-1_2",), "tiny_home/split_zhou_Tiny.json")
    only(monkeypatch, replace(tiny, downloads=(drive, tiny.downloads[1])))
    monkeypatch.setattr(downloading, "DRIVE", f"{server.url}/download?id={{}}&confirm=t")
    server.files["/download?id=AbC-1_2&confirm=t"] = b"<html>Quota exceeded</html>"
    server.content_type = "text/html; charset=utf-8"
    message = failure("tiny")
    assert "a web page came instead of the file" in message
    assert (
        f"Open https://drive.google.com/file/d/AbC-1_2/view in a browser and put the file at"
        f" {home() / 'split_zhou_Tiny.json'}. Then type the command again."
    ) in message
    assert list(home().iterdir()) == []
    server.content_type = "application/octet-stream"
    (home() / "split_zhou_Tiny.json").write_bytes(split_json())
    prepare_data.main(["tiny"])
    assert images_on_disk() == IMAGES


def test_file_of_google_drive(tiny, server, monkeypatch):
    drive = Download(("drive:AbC-1_2",), "tiny_home/split_zhou_Tiny.json")
    only(monkeypatch, replace(tiny, downloads=(drive, tiny.downloads[1])))
    monkeypatch.setattr(downloading, "DRIVE", f"{server.url}/download?id={{}}&confirm=t")
    server.files["/download?id=AbC-1_2&confirm=t"] = split_json()
    prepare_data.main(["tiny"])
    assert images_on_disk() == IMAGES


def test_an_unpacking_that_was_killed_is_done_again(tiny, server, monkeypatch):
    last = f"images/{list(IMAGES)[-1]}"
    extract = tarfile.TarFile.extract

    def killed_in_the_last_image(self, member, path, *args, **kwargs):
        extract(self, member, path, *args, **kwargs)
        if member.name == last:
            (Path(path) / last).write_bytes(b"half")
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extract", killed_in_the_last_image)
        with pytest.raises(KeyboardInterrupt):
            prepare_data.main(["tiny"])
    assert images_on_disk() == {}, "no half of an image is where it would be read"
    prepare_data.main(["tiny"])
    assert images_on_disk() == IMAGES
    assert len(server.asked("/images.tar.gz")) == 1
    assert not (home() / "images.tar.gz.unpacking").exists()


@pytest.mark.parametrize("name", ["../../escaped.jpg", "{}/escaped.jpg"])
@pytest.mark.parametrize("suffix, pack", [("tar.gz", tar_gz), ("zip", zipped)])
def test_an_archive_that_would_write_elsewhere_is_refused(tiny, server, monkeypatch, tmp_path, name, suffix, pack):
    name = name.format(tmp_path)
    server.files["/evil"] = pack({"images/cat/0.jpg": b"", name: b"escaped"})
    only(monkeypatch, replace(tiny, downloads=(Download((f"{server.url}/evil",), f"tiny_home/a.{suffix}", None, ""),)))
    message = failure("tiny")
    refused = f"It cannot be: {name} would be written outside of it."
    assert f"{home() / f'a.{suffix}'} has to be unpacked.\n{refused}" in message
    assert "Delete it, then type the command again." in message
    assert list(tmp_path.rglob("escaped.jpg")) == []
    assert not (home() / "images").exists()


def test_a_link_out_of_the_archive_is_refused(tiny, server, monkeypatch, tmp_path):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        link = tarfile.TarInfo("images")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("images/escaped.jpg"))
    server.files["/evil"] = content.getvalue()
    only(
        monkeypatch, replace(tiny, downloads=(Download((f"{server.url}/evil",), "tiny_home/a.tgz", None, "tiny_home"),))
    )
    assert "It cannot be: " in failure("tiny")
    assert list(tmp_path.rglob("escaped.jpg")) == []


@pytest.mark.parametrize(
    "content", [ARCHIVE[:-50_000], ARCHIVE[:100_000] + b"\xff" * 200_000 + ARCHIVE[300_000:], b"no archive"]
)
def test_damaged_archive(tiny, server, monkeypatch, content):
    server.files["/images.tar.gz"] = content
    split_file, archive = tiny.downloads
    only(monkeypatch, replace(tiny, downloads=(split_file, replace(archive, md5=None))))
    message = failure("tiny")
    assert f"{home() / 'images.tar.gz'} has to be unpacked.\nIt cannot be: " in message
    server.files["/images.tar.gz"] = ARCHIVE
    (home() / "images.tar.gz").unlink()
    prepare_data.main(["tiny"])
    assert images_on_disk() == IMAGES


def test_wrong_numbers(tiny, monkeypatch):
    only(monkeypatch, replace(tiny, num_classes=3, counts=(5, 2, 2)))
    message = failure("tiny")
    assert "tiny: expected 3 classes, 5 training, 2 validation, 2 test images." in message
    assert "Found 2 classes, 4 training, 2 validation, 2 test images." in message
    assert message.endswith(f"{home()}, then type: python tools/prepare_data.py tiny")


def test_the_disk_is_too_small(tiny, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(RunError, match="free") as error:
        prepare_data.main(["tiny"])
    assert error.value.exit_code == 1
    assert "Free disk space there" in str(error.value)


def test_data_path_cannot_be_written(tiny):
    cfg.data_path.write_text("a file, no folder")
    with pytest.raises(RunError, match="tiny is kept in") as error:
        prepare_data.main(["tiny"])
    assert "Free disk space there, correct its permissions, or set VP_DATA_PATH" in str(error.value)


def test_goes_on_with_the_other_names_when_one_fails(tiny, server, monkeypatch, capsys):
    lost = replace(tiny, name="lost", downloads=(Download((f"{server.url}/lost",), "lost/split_lost.json"),))
    lost = replace(lost, layout=CoOp("lost", "images", "split_lost.json"))
    only(monkeypatch, lost, tiny)
    message = failure("lost", "tiny")
    captured = capsys.readouterr()
    assert COMPLETE in captured.out
    assert f"It failed:\n{server.url}/lost: HTTP Error 404: Not Found\n" in captured.err
    assert "To prepare: lost, tiny.\nFailed: lost.\n" in message
    assert message.endswith("type: python tools/prepare_data.py lost")


def test_abide_says_what_to_put_where():
    message = failure("abide")
    assert f"There is no {cfg.data_path / 'abide/abide.hdf5'}." in message
    assert message.endswith(f"Phenotypic_V1_0b_preprocessed1.csv into {cfg.data_path}/abide/.")


@pytest.mark.parametrize("name", ["digits", "digits_inverted", "digits_rotated"])
def test_digits_need_nothing(capsys, name):
    prepare_data.main([name])
    expected = f"{name}: complete (10 classes, 1078 training, 359 validation, 360 test images)\n"
    assert capsys.readouterr().out == expected


def test_resisc45_says_what_to_put_where(monkeypatch):
    row = next(row for row in catalog.DATASETS if row.name == "resisc45")
    only(monkeypatch, replace(row, downloads=(replace(row.downloads[0], urls=()),)))
    by_hand = f"NWPU-RESISC45.rar in a browser (its authors keep it on OneDrive) and unpack it so that {cfg.data_path}/"
    by_hand += "resisc45/NWPU-RESISC45/airplane/airplane_001.jpg exists."
    message = failure("resisc45")
    assert message.startswith("resisc45: NWPU-RESISC45.zip is needed.\nNo server is known that has it.\n")
    assert f"Put the file at {cfg.data_path}/resisc45/NWPU-RESISC45.zip. Or fetch {by_hand}" in message
    make_folders(cfg.data_path, "resisc45/NWPU-RESISC45", counts={".": 5}, ending=".jpg")
    with pytest.raises(UserError) as error:
        prepare_data.verify(row)
    assert "resisc45: expected 45 classes, 18900 training, 6300 validation, 6300 test images." in str(error.value)
    assert "Found 3 classes, 9 training, 3 validation, 3 test images." in str(error.value)
    assert by_hand in str(error.value)


def test_clevr_is_found_where_its_archive_is_unpacked(server, monkeypatch, tmp_path, capsys):
    make_clevr(tmp_path)
    files = [file for file in (tmp_path / "clevr").rglob("*") if file.is_file()]
    content = {str(file.relative_to(tmp_path / "clevr")): file.read_bytes() for file in files}
    server.files["/CLEVR_v1.0.zip"] = zipped(content)
    row = next(row for row in catalog.DATASETS if row.name == "clevr")
    (archive,) = row.downloads
    assert archive.urls[0].endswith("/CLEVR_v1.0.zip") and archive.md5
    archive = replace(archive, urls=(f"{server.url}/CLEVR_v1.0.zip",), md5=None)
    only(monkeypatch, replace(row, counts=(16, 0, 8), downloads=(archive,)))
    prepare_data.main(["clevr"])
    assert "clevr: complete (8 classes, 16 training, 0 validation, 8 test images)" in capsys.readouterr().out
    (cfg.data_path / "clevr/CLEVR_v1.0/images/val/CLEVR_val_000003.png").unlink()
    assert "1 are missing, such as" in failure("clevr")


def test_caltech101_is_found_where_the_archive_in_its_archive_is_unpacked(server, monkeypatch, capsys):
    row = next(row for row in catalog.DATASETS if row.name == "caltech101")
    split_file, outer, inner = row.downloads
    images = tar_gz({f"101_ObjectCategories/{name}": data for name, data in IMAGES.items()})
    leftovers = {"__MACOSX/caltech-101/._101_ObjectCategories.tar.gz": b"", "caltech-101/show_annotation.m": b""}
    server.files["/caltech-101.zip"] = zipped({"caltech-101/101_ObjectCategories.tar.gz": images} | leftovers)
    split_file = replace(split_file, urls=(f"{server.url}/split.json",))
    outer = replace(outer, urls=(f"{server.url}/caltech-101.zip",), md5=None)
    only(monkeypatch, replace(row, num_classes=2, counts=COUNTS, downloads=(split_file, outer, inner)))
    prepare_data.main(["caltech101"])
    assert "caltech101: complete (2 classes, 4 training, 2 validation, 2 test images)" in capsys.readouterr().out
    assert [path.name for path in cfg.data_path.iterdir()] == ["caltech-101"]
    assert (cfg.data_path / "caltech-101/101_ObjectCategories/dog/3.jpg").is_file()


def test_unknown_name_and_folders_of_the_users_own(tiny, server):
    (cfg.data_path / "mine").mkdir(parents=True)
    assert "Did you mean python tools/prepare_data.py tiny?" in failure("tiny", "tinny")
    assert "python tools/prepare_data.py mine: there is no such name.\nKnown: tiny." in failure("mine")
    assert server.log == [], "names are checked before anything is fetched"


def test_no_name_lists_the_names(capsys):
    with pytest.raises(SystemExit) as stop:
        prepare_data.main([])
    assert stop.value.code == 2
    usage = " ".join(capsys.readouterr().err.split())
    assert all(row.name in usage for row in catalog.DATASETS)
