"""Files within archives: all of them or an error that names the archive, and nothing on the disk."""

import io
import tarfile
import zipfile

import pytest

from micro_diffusion.data.sources import archives
from micro_diffusion.data.sources.archives import File, estimate_images, read_lines, read_tar, read_zip
from micro_diffusion.data.sources.source import Rejected
from tests.data.sources.publishers import image, write_tar, write_zip

FILES = [(f"./deep/{number}.jpg", image(number)) for number in range(4)]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_files_come_in_their_order_with_their_bytes(tmp_path, mode):
    path = write_tar(tmp_path / "a.tar", [*FILES, ("masks.json", b"{}")], mode)
    assert [(file.name, file.content) for file in read_tar(path)] == [*FILES, ("masks.json", b"{}")]
    assert [file.name for file in read_tar(path, suffixes={".json"})] == ["masks.json"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_cut_anywhere_is_an_error(tmp_path, mode):
    path = write_tar(tmp_path / "a.tar", FILES, mode)
    whole = path.read_bytes()
    end = len(whole) if mode == "w:gz" else sum(file.end for file in [*read_tar(path)][-1:])
    for length in sorted({*range(0, end, 512), *range(100, end, 1500), end - 1}):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a\.tar cannot be read to its end .*; get this file again, or remove it"):
            list(read_tar(path))


def test_a_damaged_header_is_no_end(tmp_path):
    path = write_tar(tmp_path / "a.tar", FILES)
    content = bytearray(path.read_bytes())
    second = next(iter(read_tar(path))).end
    content[second + 3] ^= 1
    path.write_bytes(content)
    with tarfile.open(path) as archive:
        assert len(archive.getmembers()) == 1  # what tarfile, and all that builds on it, takes for the whole
    with pytest.raises(ValueError, match=f"bad checksum at byte {second}"):
        list(read_tar(path))


def test_archives_joined_into_one_file_are_an_error(tmp_path):
    path = write_tar(tmp_path / "a.tar", FILES)
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(ValueError, match="something follows its end"):
        list(read_tar(path))


def test_links_devices_and_giants_are_rejected(tmp_path, monkeypatch):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind, size in (
            ("folder.jpg", tarfile.DIRTYPE, 0),
            ("link.jpg", tarfile.SYMTYPE, 0),
            ("hard.jpg", tarfile.LNKTYPE, 0),
            ("device.jpg", tarfile.CHRTYPE, 0),
            ("giant.jpg", tarfile.REGTYPE, 2000),
            ("../../out.jpg", tarfile.REGTYPE, 10),
            ("/etc/passwd.jpg", tarfile.REGTYPE, 10),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, size, "/etc/passwd"
            archive.addfile(member, io.BytesIO(b"x" * size))
    monkeypatch.setattr(archives, "LARGEST_FILE", 2**10)
    found = list(read_tar(path))
    assert found[:4] == [
        *(Rejected(f"{name}.jpg", "no plain file") for name in ("link", "hard", "device")),
        Rejected("giant.jpg", "file above 0 MiB"),
    ]
    assert [file.content for file in found[4:]] == [b"x" * 10] * 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tar"]


def test_a_name_that_would_fill_the_memory_is_an_error(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("long/" * 100 + "a.jpg"))
    assert [file[0] for file in read_tar(path)] == ["long/" * 100 + "a.jpg"]
    content = bytearray(path.read_bytes())
    header = tarfile.TarInfo.frombuf(content[:512], "utf-8", "strict")
    header.size = 2**33
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + content[512:])
    with pytest.raises(ValueError, match=f"a name of {2**33} bytes"):
        list(read_tar(path))


def test_names_that_are_no_text_become_text(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", encoding="latin-1") as archive:
        archive.addfile(tarfile.TarInfo("größe.jpg"))
    (file,) = read_tar(path)
    assert file[0].encode() and file[0].endswith(".jpg")


def test_a_damaged_file_of_a_zip_is_rejected_by_itself(tmp_path):
    path = write_zip(tmp_path / "a.zip", FILES)
    content = bytearray(path.read_bytes())
    content[content.index(FILES[1][1]) + 40] ^= 1
    path.write_bytes(content)
    first, second, *rest = read_zip(path)
    assert second == Rejected(FILES[1][0], "damaged in the archive")
    assert [(file.name, file.content) for file in (first, *rest)] == [FILES[0], *FILES[2:]]


def test_locked_and_giant_files_of_a_zip_are_rejected(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "a.zip", [("locked.jpg", b"x"), ("../../out.jpg", b"y"), ("giant.jpg", bytes(2000))])
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    monkeypatch.setattr(archives, "LARGEST_FILE", 2**10)
    assert list(read_zip(path)) == [
        Rejected("locked.jpg", "no plain file"),
        File("../../out.jpg", b"y", 0),
        Rejected("giant.jpg", "file above 0 MiB"),
    ]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zip"]


def test_a_zip_without_its_directory_is_an_error(tmp_path):
    path = write_zip(tmp_path / "a.zip", FILES)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"a\.zip cannot be read to its end"):
        list(read_zip(path))
    assert not zipfile.is_zipfile(path)


def test_lines_from_a_file_and_from_an_archive(tmp_path):
    text = b"one\ntwo\nthree"
    (tmp_path / "a.jsonl").write_bytes(text)
    packed = write_tar(tmp_path / "a.jsonl.tgz", [("._a.txt", b"mac"), ("a.jsonl", text)], "w:gz")
    for path in (tmp_path / "a.jsonl", packed):
        assert list(read_lines(path, suffix_of_member=".jsonl")) == [b"one\n", b"two\n", b"three"]


def test_the_number_of_images_is_estimated_from_sizes(tmp_path):
    paths = [
        write_tar(tmp_path / f"{name}.tar", [(f"{i}.jpg", image(i, size=(60, 60))) for i in range(count)])
        for name, count in (("a", 100), ("b", 300))
    ]
    assert estimate_images(paths) == pytest.approx(400, rel=0.1)
    assert estimate_images([write_tar(tmp_path / "c.tar", [("a.txt", b"x")])]) == 0
