"""Published archives are unpacked; hostile, broken and other ones are refused and leave nothing behind."""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from qwartet.errors import DataError
from qwartet.evaluate.data import archives, files
from qwartet.evaluate.data.archives import (
    Member,
    PublishedArchive,
    UnsafeArchiveError,
    unpack,
    unpack_missing,
    write_members,
)
from qwartet.evaluate.tasks.mmlu import SUBJECTS
from qwartet.evaluate.tasks.registry import TaskOptions, make_tasks
from tests.evaluate.made_archives import hand_made_zip, packed_zeros, pax_header, tar_of, zip_of

FOLDERS = ("dev", "val", "test")
GOOD = {"data/dev/a_dev.csv": b"q,1,2,3,4,A\n", "data/test/a_test.csv": b"q,1,2,3,4,B\n"}
TEN_GB = 10 * 2**30


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of a directory with a file beside it, which no archive may touch."""
    (tmp_path / "parent" / "place").mkdir(parents=True)
    (tmp_path / "parent" / "precious.csv").write_text("precious")
    return tmp_path / "parent" / "place"


def assert_refused(archive: Path, reason: str) -> None:
    """Nothing is unpacked, nothing else is touched, and the error is one line that says what to do."""
    place = archive.parent
    before = {path: path.lstat().st_mtime_ns for path in place.parent.rglob("*") if path != place}
    started = time.monotonic()
    with pytest.raises(DataError) as caught:
        unpack(archive, place / "unpacked", FOLDERS)
    assert time.monotonic() - started < 20
    text = str(caught.value)
    assert text.startswith(f"{archive}: ") and reason in text and "; " in text
    assert text.isprintable() and len(text) < 1000
    assert {path: path.lstat().st_mtime_ns for path in place.parent.rglob("*") if path != place} == before
    assert (place.parent / "precious.csv").read_text() == "precious"


MAKERS: dict[str, Callable[..., Path]] = {".zip": zip_of, ".tar": tar_of}
both = pytest.mark.parametrize("suffix", MAKERS)


def made(place: Path, suffix: str, members: dict[str, bytes], **changed: dict[str, object]) -> Path:
    return MAKERS[suffix](place / f"archive{suffix}", members, **changed)


@both
def test_the_wanted_files_of_a_published_archive_are_unpacked(place: Path, suffix: str) -> None:
    others = {
        "data/README.txt": b"read me", "data/auxiliary_train/arc.csv": b"train", "data/dev/notes.txt": b"no",
        "__MACOSX/dev/._a_dev.csv": b"\0", "data/dev/deep/er/x.csv": b"no", "setup.py": b"raise SystemExit",
    }  # fmt: skip
    archive = made(place, suffix, {**GOOD, **others})
    assert unpack(archive, place / "unpacked", FOLDERS) == 2
    found = {path.relative_to(place / "unpacked").as_posix(): path for path in (place / "unpacked").rglob("*.*")}
    assert {name: path.read_bytes() for name, path in found.items()} == {
        name.removeprefix("data/"): content for name, content in GOOD.items()
    }
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o111 == 0 for path in found.values())


@both
@pytest.mark.parametrize("prefix", ["", "./", "data/", "./data/"])
def test_with_or_without_a_folder_of_its_own(place: Path, suffix: str, prefix: str) -> None:
    archive = made(place, suffix, {f"{prefix}{name.removeprefix('data/')}": content for name, content in GOOD.items()})
    unpack(archive, place / "unpacked", FOLDERS)
    assert (place / "unpacked" / "dev" / "a_dev.csv").read_bytes() == GOOD["data/dev/a_dev.csv"]


def test_folders_in_archives_are_no_files(place: Path) -> None:
    with zipfile.ZipFile(place / "archive.zip", "w") as zipped:
        zipped.mkdir("data") if hasattr(zipped, "mkdir") else zipped.writestr("data/", b"")
        zipped.writestr("data/dev/a_dev.csv", b"x")
    with tarfile.open(place / "archive.tar", "w") as taped:
        for name in (".", "./data", "./data/dev"):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            taped.addfile(info)
        info = tarfile.TarInfo("./data/dev/a_dev.csv")
        taped.addfile(info)
    for suffix in MAKERS:
        assert unpack(place / f"archive{suffix}", place / f"unpacked{suffix}", FOLDERS) == 1


@both
@pytest.mark.parametrize(
    "name",
    [
        "../x", "../dev/a.csv", "data/../../x", "data/dev/../../../dev/x.csv", "/etc/x", "/dev/a.csv", "//dev/a.csv",
        "..\\dev\\a.csv", "C:/dev/a.csv", "dev/..", "dev//a.csv", "dev/./a.csv", "dev/\x1b[31ma.csv",
        "dev/\u202ea.csv", "dev/a\n.csv",
    ],
)  # fmt: skip
def test_sec_23_a_name_that_leads_out_is_refused(place: Path, suffix: str, name: str) -> None:
    assert_refused(made(place, suffix, {**GOOD, name: b"x"}), "leads out of its folder")


def test_sec_23_a_folder_that_leads_out_is_refused(place: Path) -> None:
    zip_of(place / "archive.zip", {**GOOD, "../up/": b""})
    with tarfile.open(tar_of(place / "archive.tar", GOOD), "a") as archive:
        info = tarfile.TarInfo("../up")
        info.type = tarfile.DIRTYPE
        archive.addfile(info)
    for suffix in MAKERS:
        assert_refused(place / f"archive{suffix}", "leads out of its folder")


def test_sec_23_a_name_cut_by_a_zero_is_refused(place: Path) -> None:
    archive = zip_of(place / "archive.zip", {**GOOD, "data/dev/bXcsv": b"x"})
    archive.write_bytes(archive.read_bytes().replace(b"data/dev/bXcsv", b"data/dev/b\0csv"))
    assert_refused(archive, "leads out of its folder")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (tarfile.SYMTYPE, "is a link"),
        (tarfile.LNKTYPE, "is a link"),
        (tarfile.CHRTYPE, "is a special file"),
        (tarfile.BLKTYPE, "is a special file"),
        (tarfile.FIFOTYPE, "is a special file"),
        (tarfile.CONTTYPE, ""),
    ],
)
@pytest.mark.parametrize("to", ["/etc/passwd", "../../precious.csv", "data/dev/a_dev.csv"])
def test_sec_23_links_and_devices_in_a_tar_are_refused(place: Path, kind: bytes, reason: str, to: str) -> None:
    archive = tar_of(
        place / "archive.tar", {**GOOD, "data/dev/b.csv": b""}, data_dev_b_csv={"type": kind, "linkname": to}
    )
    if reason:
        assert_refused(archive, f"'data/dev/b.csv' {reason}")
    else:  # a contiguous file is a plain one
        assert unpack(archive, place / "unpacked", FOLDERS) == 3


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFDIR])
def test_sec_23_links_and_devices_in_a_zip_are_refused(place: Path, mode: int) -> None:
    entry = {"external_attr": (mode | 0o777) << 16, "create_system": 3}
    archive = zip_of(place / "archive.zip", {**GOOD, "data/dev/b.csv": b"/etc/passwd"}, data_dev_b_csv=entry)
    assert_refused(archive, "is a link" if mode == stat.S_IFLNK else "is a special file")


@pytest.mark.parametrize("where", ["data/dev/b.csv", "elsewhere/link"])
def test_sec_23_a_link_that_would_not_be_unpacked_is_refused_too(place: Path, where: str) -> None:
    """A folder that is a link is the usual way to write elsewhere: the link first, then a file through it."""
    with tarfile.open(place / "archive.tar", "w") as archive:
        info = tarfile.TarInfo(where.rpartition("/")[0])
        info.type, info.linkname = tarfile.SYMTYPE, "../.."
        archive.addfile(info)
        archive.addfile(tarfile.TarInfo(where))
    assert_refused(place / "archive.tar", "is a link")


@both
@pytest.mark.parametrize("name", ["data/dev/a_dev.csv", "DATA/DEV/A_DEV.CSV", "dev/a_dev.csv", "other/dev/a_dev.csv"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_sec_23_two_members_for_one_file_are_refused(place: Path, suffix: str, name: str) -> None:
    archive = made(place, suffix, GOOD)
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "a") as zipped:
            zipped.writestr(name, b"x")
    else:
        with tarfile.open(archive, "a") as taped:
            taped.addfile(tarfile.TarInfo(name))
    assert_refused(archive, "two members are named")


def test_the_hand_made_zip_is_a_zip(place: Path) -> None:
    archive = hand_made_zip(place / "archive.zip", "dev/a.csv", 2**24, packed_zeros(2**24))
    with zipfile.ZipFile(archive) as zipped:
        assert [info.file_size for info in zipped.infolist()] == [2**24]
        zipped.infolist()[0].CRC = zlib.crc32(bytes(2**24))
        assert zipped.read(zipped.infolist()[0]) == bytes(2**24)


@pytest.mark.parametrize("name", ["dev/a.csv", "bomb"])
def test_sec_23_a_zip_bomb_of_10_gb_is_refused(place: Path, name: str) -> None:
    archive = hand_made_zip(place / "archive.zip", name, TEN_GB, packed_zeros(TEN_GB))
    assert archive.stat().st_size < 20 * 2**20
    assert_refused(archive, "unpacks to more than 1,073,741,824 bytes")


def test_sec_23_a_zip_bomb_that_declares_little_is_refused_while_it_is_unpacked(place: Path) -> None:
    archive = hand_made_zip(place / "archive.zip", "dev/a.csv", 1000, packed_zeros(TEN_GB))
    tracemalloc.start()
    assert_refused(archive, "truncated or damaged")
    assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    tracemalloc.stop()


def test_sec_23_many_members_that_share_the_same_bytes_are_refused(place: Path) -> None:
    """Each entry is harmless; together they unpack to more than the limit (a bomb without recursion)."""
    with zipfile.ZipFile(zip_of(place / "archive.zip", {"dev/a.csv": bytes(2**20)})) as zipped:
        start = zipped.start_dir
        content = (place / "archive.zip").read_bytes()
    entry = content[start : content.index(b"PK\5\6")]
    entries = b"".join(entry.replace(b"dev/a.csv", b"dev/%04d" % n) for n in range(1500))
    entries = entries.replace(b"\x09\0\0\0\0\0", b"\x08\0\0\0\0\0")  # the length of a name
    end = struct.pack("<HHHHIIH", 0, 0, 1500, 1500, len(entries), start, 0)
    (place / "archive.zip").write_bytes(content[:start] + entries + b"PK\5\6" + end)
    with zipfile.ZipFile(place / "archive.zip") as zipped:
        assert sum(info.file_size for info in zipped.infolist()) == 1500 * 2**20
    assert_refused(place / "archive.zip", "unpacks to more than")


def test_sec_23_a_sparse_tar_bomb_of_10_gb_is_refused(place: Path) -> None:
    header = bytearray(tarfile.TarInfo("dev/a.csv").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[386:398] = header[398:410] = b"00000000000\0"  # one piece: nothing at the start
    header[483:495] = b"%011o\0" % TEN_GB
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * 32)
    (place / "archive.tar").write_bytes(bytes(header) + bytes(1024))
    with tarfile.open(place / "archive.tar") as taped:
        assert [info.size for info in taped] == [TEN_GB] and taped.getmembers()[0].isreg()
    assert_refused(place / "archive.tar", "is a special file")


def test_sec_23_a_tar_of_10_gb_is_refused(place: Path) -> None:
    info = tarfile.TarInfo("dev/a.csv")
    info.size = TEN_GB
    with (place / "archive.tar").open("wb") as file:
        file.write(info.tobuf())
        file.truncate(TEN_GB + 2048)  # holes: nothing is written
    assert_refused(place / "archive.tar", "is larger than 1,073,741,824 bytes")
    with (place / "archive.tar").open("r+b") as file:
        file.truncate(4096)
    assert_refused(place / "archive.tar", "truncated or damaged")


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_sec_23_a_packed_tar_is_not_unpacked(place: Path, pack: Callable[[bytes], bytes]) -> None:
    """It could unpack without end before the first member is seen; the published one is not packed."""
    archive = tar_of(place / "archive.tar", GOOD)
    archive.write_bytes(pack(archive.read_bytes()))
    assert_refused(archive, "truncated or damaged")


@pytest.mark.parametrize("num_read", [1001, 10**9])
def test_sec_23_a_member_longer_than_it_declares_is_stopped_at_that_length(tmp_path: Path, num_read: int) -> None:
    class Zeros(io.RawIOBase):
        def __init__(self, num_left: int) -> None:
            self.num_left = num_left

        def read(self, size: int = -1, /) -> bytes:
            assert size >= 0, "all of it at once"
            count = min(size, self.num_left)
            self.num_left -= count
            return bytes(count)

    zeros = Zeros(num_read)
    with pytest.raises(UnsafeArchiveError, match="longer than it declares"):
        write_members({"dev/a.csv": Member("dev/a.csv", "file", 1000, lambda: zeros)}, tmp_path / "new")
    assert zeros.num_left == num_read - 1001
    assert (tmp_path / "new" / "dev" / "a.csv").stat().st_size == 0
    with pytest.raises(UnsafeArchiveError, match="shorter than it declares"):
        write_members({"dev/a.csv": Member("dev/a.csv", "file", 1000, lambda: Zeros(999))}, tmp_path / "other")


def test_sec_23_a_million_members_are_refused_before_they_are_listed(place: Path) -> None:
    num_members = 1_000_000
    header = tarfile.TarInfo("dev/a.csv").tobuf()
    with (place / "archive.tar").open("wb") as file:
        for _ in range(num_members // 1000):
            file.write(header * 1000)
        file.write(bytes(1024))
    entry = (
        b"PK\1\2" + struct.pack("<HHHHHHIIIHHHHHII", 20, 20, 0, 0, 0, 33, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0) + b"dev/a.csv"
    )
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 65535, 65535, len(entry) * num_members, 0, 0)
    (place / "archive.zip").write_bytes(entry * num_members + end)
    for suffix, reason in ((".tar", "more than 2,000 members"), (".zip", "the list of its members is too long")):
        started = time.monotonic()
        tracemalloc.start()
        assert_refused(place / f"archive{suffix}", reason)
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
        tracemalloc.stop()
        assert time.monotonic() - started < 10


@both
def test_sec_23_members_beyond_the_limit_are_refused(place: Path, suffix: str) -> None:
    names = [f"dev/{number}.csv" for number in range(archives.MAX_MEMBERS + 1)]
    reason = "2,000 members" if suffix == ".zip" else "members"  # of a .tar, the headers may be too long before
    assert_refused(made(place, suffix, dict.fromkeys(names, b"")), reason)
    last = made(place, suffix, dict.fromkeys(names[:-1], b""))
    assert unpack(last, place / "unpacked", FOLDERS) == archives.MAX_MEMBERS


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(pax_header(b"1" * 400_000), id="digits that some versions of tarfile read again and again"),
        pytest.param(pax_header(b"1" * 2_000) * 400, id="many of them"),
        pytest.param(pax_header(b"12 comment=x\n") * 20_000, id="headers of headers, one within the other"),
        pytest.param(tarfile.TarInfo("x" * 100_000).tobuf(tarfile.GNU_FORMAT), id="a name of 100,000 signs"),
        pytest.param(pax_header(b"30 GNU.sparse.map=0,1,5,1,9,1,\n"), id="a sparse map"),
        pytest.param(pax_header(b"20 size=99999999999\n"), id="a size of its own"),
        pytest.param(pax_header(b"11 size=-1\n"), id="a negative size"),
        pytest.param(pax_header(b"14 path=../x\n"), id="a path of its own"),
    ],
)
def test_sec_23_extended_headers_are_bounded(place: Path, content: bytes) -> None:
    name = tarfile.TarInfo("dev/a.csv").tobuf()
    (place / "archive.tar").write_bytes(content + name + bytes(1024))
    assert_refused(place / "archive.tar", "")


def test_sec_23_the_headers_of_all_members_together_are_bounded(place: Path) -> None:
    names = [tarfile.TarInfo(f"dev/{number}.csv").tobuf() for number in range(1_000)]
    (place / "archive.tar").write_bytes(b"".join(pax_header(b"1" * 1_500) + name for name in names) + bytes(1024))
    assert_refused(place / "archive.tar", "the list of its members is too long")


@pytest.mark.parametrize("flags", [0x1, 0x40, 0x2000])
def test_sec_23_an_encrypted_member_is_refused(place: Path, flags: int) -> None:
    archive = hand_made_zip(place / "archive.zip", "dev/a.csv", 5, b"abcde", flags=flags, method=0)
    assert_refused(archive, "'dev/a.csv' is an encrypted file")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 9, 93, 99])
def test_sec_23_other_compressions_are_refused(place: Path, method: int) -> None:
    """zipfile unpacks bzip2 and LZMA without a limit on the length of a piece."""
    archive = hand_made_zip(place / "archive.zip", "dev/a.csv", 5, b"abcde", method=method)
    assert_refused(archive, "is a file with an unusual compression")


@both
def test_sec_23_every_truncated_archive_is_refused(place: Path, suffix: str) -> None:
    archive = made(place, suffix, {**GOOD, "data/dev/b.csv": os.urandom(3000)})
    content = archive.read_bytes()
    end = len(content) if suffix == ".zip" else content.rindex(b"data/dev/b.csv") + 512 + 3072
    for length in [*range(0, end, 97), end - 1, *(range(0, end, 512))]:
        archive.write_bytes(content[:length])
        assert_refused(archive, "download the published archive again")
    archive.write_bytes(content)
    assert unpack(archive, place / "unpacked", FOLDERS) == 3


@both
def test_sec_23_every_flipped_byte_gives_the_files_or_a_clear_error(place: Path, suffix: str) -> None:
    """A .tar has no hash of its contents, so that there other contents are possible, but no other files."""
    archive = made(place, suffix, GOOD)
    content = archive.read_bytes()
    for position in range(0, min(len(content), 3000), 3):
        archive.write_bytes(content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :])
        target = place / "unpacked" / f"{position}"
        try:
            unpack(archive, target, FOLDERS)
        except DataError:
            assert not target.exists()
        else:
            assert all(path.parent.name in FOLDERS for path in target.rglob("*.csv"))
        assert not list((place / "unpacked").glob(".*"))
    assert sorted(path.name for path in place.parent.iterdir()) == ["place", "precious.csv"]


@both
def test_sec_23_another_archive_is_refused(place: Path, suffix: str) -> None:
    assert_refused(
        made(place, suffix, {"README": b"x", "dev/a.txt": b"x"}), "it has no dev/*.csv or val/*.csv or test/*"
    )
    (place / f"archive{suffix}").write_bytes(b"PK\3\4 no archive at all" * 100)
    assert_refused(place / f"archive{suffix}", "truncated or damaged")
    (place / f"archive{suffix}").write_bytes(b"")
    assert_refused(place / f"archive{suffix}", "truncated or damaged")


def test_what_is_no_file_is_not_opened(place: Path) -> None:
    os.mkfifo(place / "archive.zip")
    assert_refused(place / "archive.zip", "a pipe, not an archive")


@both
def test_sec_23_a_full_disk_leaves_nothing(place: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = made(place, suffix, GOOD)

    def full(*_: object) -> None:
        (place / ".unpacked.tmp").exists()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives, "write_members", full)
    assert_refused(archive, "cannot be unpacked (No space left on device); free some space")


@both
def test_an_interruption_leaves_nothing(place: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = made(place, suffix, GOOD)
    write = archives.write_members

    def interrupted(wanted: dict[str, Member], directory: Path) -> None:
        write(wanted, directory)
        assert len(list(directory.rglob("*.csv"))) == 2 and not (place / "unpacked").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(archives, "write_members", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, place / "unpacked", FOLDERS)
    assert list(place.iterdir()) == [archive]


MMLU = PublishedArchive("data.tar", FOLDERS)


def test_an_archive_is_looked_for_in_the_folder_of_its_task_and_beside_it(tmp_path: Path) -> None:
    assert unpack_missing(tmp_path, "mmlu", MMLU) is None
    tar_of(tmp_path / "data.tar", GOOD)
    found = unpack_missing(tmp_path, "mmlu", MMLU)
    assert found is not None and found.directory == tmp_path / "mmlu" and found.num_files == 2
    tar_of(tmp_path / "mmlu" / "data.tar", {"test/own.csv": b"x"})
    found = unpack_missing(tmp_path, "mmlu", MMLU)
    assert found is not None and found.archive == tmp_path / "mmlu" / "data.tar"
    assert (tmp_path / "mmlu" / "data" / "test" / "own.csv").is_file()
    assert unpack_missing(tmp_path, "mmlu", MMLU) is None, "it was unpacked before"


def whole_mmlu(path: Path) -> Path:
    splits = {f"data/{split}/{name}_{split}.csv": b"q,1,2,3,4,A\n" for split in ("dev", "test") for name in SUBJECTS}
    return tar_of(path, splits)


def test_a_task_whose_files_are_missing_takes_them_from_its_archive(tmp_path: Path) -> None:
    (tmp_path / "mmlu").mkdir()
    whole_mmlu(tmp_path / "mmlu" / "data.tar")
    heard: list[archives.Unpacked] = []
    [task], _ = make_tasks(["mmlu"], TaskOptions(tmp_path, is_loaded=False), heard.append)
    assert len(task.questions()) == 57
    assert [one.num_files for one in heard] == [114]
    heard.clear()
    [task], _ = make_tasks(["mmlu"], TaskOptions(tmp_path, is_loaded=False), heard.append)
    assert len(task.questions()) == 57 and not heard


def test_an_archive_is_left_alone_where_the_files_are_there(tmp_path: Path) -> None:
    whole_mmlu(tmp_path / "data.tar")
    make_tasks(["mmlu"], TaskOptions(tmp_path, is_loaded=False))
    (tmp_path / "mmlu").rename(tmp_path / "by-hand")
    (tmp_path / "data.tar").write_bytes(b"damaged")
    make_tasks(["mmlu"], TaskOptions(tmp_path, is_loaded=False))
    assert not (tmp_path / "mmlu").exists()


def test_sec_23_a_hostile_archive_stops_its_own_task_alone(tmp_path: Path) -> None:
    tar_of(tmp_path / "data.tar", {**GOOD, "../x": b"x"})
    (tmp_path / "test.jsonl").write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    tasks, left_out = make_tasks(["all"], TaskOptions(tmp_path, is_loaded=False))
    assert "gsm8k" in [task.name for task in tasks] and "leads out of its folder" in left_out["mmlu"]
    with pytest.raises(DataError, match="leads out of its folder"):
        make_tasks(["mmlu"], TaskOptions(tmp_path, is_loaded=False))


def test_sec_23_a_gzip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HumanEval is published as a .gz file, which is read and not unpacked."""
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 2**25)
    (tmp_path / "HumanEval.jsonl.gz").write_bytes(gzip.compress(bytes(2**24)) * 640)  # 10 GB
    tracemalloc.start()
    with pytest.raises(DataError, match="larger than"):
        files.read_text(tmp_path / "HumanEval.jsonl.gz")
    assert tracemalloc.get_traced_memory()[1] < 2**28
    tracemalloc.stop()
