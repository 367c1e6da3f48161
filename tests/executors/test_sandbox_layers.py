"""Unpacking layers: what a container would see, and nothing outside of the root."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from executors.sandbox.blobs import Blob, Budget, ImageInvalid, open_layer
from executors.sandbox.layers import Unpacker
from executors.sandbox.tree import remove_tree
from tests.executors.image_archives import (
    Entry,
    digest,
    directory,
    entry,
    file,
    hard_link,
    layer,
    link,
    whiteout,
)

Unpack = Callable[..., Path]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file that no archive may touch, with its directory next to the root."""
    victim = tmp_path / "outside" / "victim"
    victim.parent.mkdir()
    victim.write_text("untouched")
    victim.chmod(0o600)
    return victim


@pytest.fixture
def unpack(tmp_path: Path, outside: Path) -> Unpack:
    """Unpacks layers, each a list of entries, into a fresh root."""

    def run(*layers: list[Entry], max_bytes: int = 10**7, max_entries: int = 1000) -> Path:
        root = tmp_path / "root"
        root.mkdir()
        budget = Budget(max_bytes=max_bytes, max_entries=max_entries)
        with Unpacker(root, owner=None, budget=budget) as unpacker:
            for entries in layers:
                unpacker.apply(io.BytesIO(layer(*entries)))
            unpacker.finish()
        return root

    return run


def assert_untouched(outside: Path) -> None:
    assert outside.read_text() == "untouched"
    assert stat.S_IMODE(outside.stat().st_mode) == 0o600
    assert outside.stat().st_nlink == 1
    assert [path.name for path in outside.parent.iterdir()] == ["victim"]
    assert sorted(p.name for p in outside.parent.parent.iterdir()) == ["outside", "root"]


def content(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_files_directories_and_links_are_unpacked_with_modes_and_times(unpack: Unpack) -> None:
    root = unpack(
        [
            directory("bin", 0o751),
            file("bin/tool", b"#!", 0o755, mtime=1_000_000_000),
            hard_link("bin/alias", "bin/tool"),
            link("sh", "bin/tool"),
            directory("tmp", 0o1777),
        ]
    )
    assert (root / "bin/tool").read_bytes() == b"#!"
    assert (root / "bin/tool").stat().st_mtime == 1_000_000_000
    assert (root / "bin/alias").stat().st_ino == (root / "bin/tool").stat().st_ino
    assert os.readlink(root / "sh") == "bin/tool"
    assert (mode(root / "bin"), mode(root / "bin/tool")) == (0o751, 0o755)
    assert mode(root / "tmp") == 0o1777


def test_missing_parents_are_made(unpack: Unpack) -> None:
    root = unpack([file("a/b/c")])
    assert content(root) == ["a", "a/b", "a/b/c"]
    assert mode(root / "a/b") == 0o755


def test_setuid_bits_devices_and_fifos_are_left_out(unpack: Unpack) -> None:
    root = unpack(
        [
            file("su", mode=0o6755),
            directory("group", 0o2775),
            entry("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
            entry("disk", type=tarfile.BLKTYPE, devmajor=8),
            entry("pipe", type=tarfile.FIFOTYPE),
        ]
    )
    assert content(root) == ["group", "su"]
    assert (mode(root / "su"), mode(root / "group")) == (0o755, 0o775)


def test_owners_of_the_archive_are_ignored(unpack: Unpack) -> None:
    root = unpack([directory("d"), file("d/f"), link("l", "d")])
    assert {path.lstat().st_uid for path in root.rglob("*")} == {os.geteuid()}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_everything_belongs_to_the_owner_that_was_asked_for(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    budget = Budget(max_bytes=100_000, max_entries=10)
    with Unpacker(root, owner=61_000, budget=budget) as unpacker:
        entries = [file("made/f", mode=0o4755), link("l", "made/f"), directory("d")]
        unpacker.apply(io.BytesIO(layer(*entries)))
        unpacker.finish()
    paths = [root, *root.rglob("*")]
    assert len(paths) == 5
    assert {(p.lstat().st_uid, p.lstat().st_gid) for p in paths} == {(61_000, 61_000)}
    assert mode(root / "made/f") == 0o755


def test_directories_without_rights_can_be_filled_and_deleted_again(
    unpack: Unpack, tmp_path: Path
) -> None:
    root = unpack([directory("a", 0o000), directory("a/b", 0o555), file("a/b/c")], [file("a/b/d")])
    assert mode(root / "a") == 0
    remove_tree(root)
    assert not root.exists()


def test_a_whiteout_hides_what_lower_layers_have(unpack: Unpack) -> None:
    root = unpack(
        [file("etc/old"), file("etc/kept"), file("opt/deep/file")],
        [whiteout("etc/old"), whiteout("opt"), whiteout("never/was")],
    )
    assert content(root) == ["etc", "etc/kept"]


@pytest.mark.parametrize("late", [False, True])
def test_an_opaque_directory_hides_lower_layers_but_not_its_own(unpack: Unpack, late: bool) -> None:
    own = [directory("d"), file("d/new"), file("d/both/new")]
    opaque = [file("d/.wh..wh..opq")]
    root = unpack([file("d/old"), file("d/both/old")], own + opaque if late else opaque + own)
    assert content(root) == ["d", "d/both", "d/both/new", "d/new"]


def test_a_whiteout_does_not_hide_an_earlier_entry_of_its_own_layer(unpack: Unpack) -> None:
    root = unpack([file("f", b"old")], [file("f", b"new"), whiteout("f")])
    assert (root / "f").read_bytes() == b"new"


def test_a_file_replaces_a_directory_and_the_reverse(unpack: Unpack) -> None:
    root = unpack(
        [file("a/x"), directory("a/y"), file("b")],
        [file("a", b"file"), directory("b"), file("b/x")],
    )
    assert content(root) == ["a", "b", "b/x"]
    assert (root / "a").read_bytes() == b"file"


def test_an_upper_file_does_not_change_a_lower_hard_link(unpack: Unpack) -> None:
    root = unpack([file("a", b"lower"), hard_link("b", "a")], [file("a", b"upper")])
    assert ((root / "a").read_bytes(), (root / "b").read_bytes()) == (b"upper", b"lower")


@pytest.mark.parametrize("target", ["usr/lib", "/usr/lib", "../../usr/lib"])
def test_an_entry_below_a_linked_directory_lands_where_the_link_points(
    unpack: Unpack, target: str
) -> None:
    root = unpack([directory("usr/lib"), link("lib", target)], [file("lib/x", b"merged")])
    assert os.readlink(root / "lib") == target
    assert (root / "usr/lib/x").read_bytes() == b"merged"


def test_a_directory_entry_replaces_a_link_as_docker_does(unpack: Unpack) -> None:
    root = unpack([file("usr/lib/x"), link("lib", "usr/lib")], [directory("lib"), file("lib/y")])
    assert content(root) == ["lib", "lib/y", "usr", "usr/lib", "usr/lib/x"]
    assert not (root / "lib").is_symlink()


def test_a_link_that_is_replaced_is_not_followed_any_more(unpack: Unpack) -> None:
    root = unpack([link("l", "a"), file("l/1"), directory("l"), file("l/2")])
    assert content(root) == ["a", "a/1", "l", "l/2"]


@pytest.mark.parametrize("name", ["../outside/victim", "a/../../outside/victim", "..", "a/.."])
def test_a_name_with_dots_that_lead_up_is_refused(unpack: Unpack, outside: Path, name: str) -> None:
    with pytest.raises(ImageInvalid, match="leaves the root"):
        unpack([file(name, b"hacked")])
    assert_untouched(outside)


def test_an_absolute_name_is_taken_from_the_root(unpack: Unpack, outside: Path) -> None:
    root = unpack([file(str(outside), b"inside")])
    assert (root / str(outside).lstrip("/")).read_bytes() == b"inside"
    assert_untouched(outside)


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("absolute", [False, True])
def test_a_link_out_of_the_root_leads_to_a_place_inside(
    unpack: Unpack, outside: Path, absolute: bool, upper: bool
) -> None:
    target = str(outside.parent) if absolute else "../outside"
    first: list[Entry] = [link("out", target)]
    second = [
        file("out/victim", b"hacked", 0o777),
        directory("out/sub"),
        hard_link("out/hard", "out/victim"),
        link("out/soft", "victim"),
    ]
    root = unpack(first, second) if upper else unpack(first + second)
    assert (root / (target.lstrip("/") if absolute else "outside") / "hard").is_file()
    assert_untouched(outside)


def test_a_file_does_not_write_through_a_link_of_its_own_name(
    unpack: Unpack, outside: Path
) -> None:
    root = unpack([link("f", str(outside))], [file("f", b"hacked", 0o777)])
    assert (root / "f").read_bytes() == b"hacked"
    assert_untouched(outside)


def test_a_directory_does_not_change_the_mode_of_what_a_link_points_to(
    unpack: Unpack, outside: Path
) -> None:
    before = mode(outside.parent)
    unpack([link("d", str(outside.parent))], [directory("d", 0o700), file("d/x")])
    unpacked_over_a_directory = mode(outside.parent)
    assert unpacked_over_a_directory == before
    assert_untouched(outside)


def test_a_link_that_replaces_a_directory_keeps_the_mode_of_its_target(
    unpack: Unpack, outside: Path
) -> None:
    before = mode(outside.parent)
    unpack([directory("d", 0o777)], [link("d", str(outside.parent))])
    assert mode(outside.parent) == before


def test_a_hard_link_to_the_outside_is_refused(unpack: Unpack, outside: Path) -> None:
    with pytest.raises(ImageInvalid, match="leaves the root"):
        unpack([hard_link("h", "../outside/victim")])
    assert_untouched(outside)


@pytest.mark.parametrize("through", [False, True])
def test_a_hard_link_does_not_reach_an_absolute_target(
    unpack: Unpack, outside: Path, through: bool
) -> None:
    target = "out/victim" if through else str(outside)
    with pytest.raises((ImageInvalid, OSError)):
        unpack([link("out", str(outside.parent)), hard_link("h", target)])
    assert_untouched(outside)


def test_a_hard_link_to_a_link_is_a_link_and_not_what_it_points_to(
    unpack: Unpack, outside: Path
) -> None:
    root = unpack([link("l", str(outside)), hard_link("h", "l")], [file("h", b"hacked")])
    assert (root / "h").read_bytes() == b"hacked"
    assert_untouched(outside)


def test_a_hard_link_to_a_directory_is_refused(unpack: Unpack) -> None:
    with pytest.raises(ImageInvalid, match="no file"):
        unpack([directory("d"), hard_link("h", "d")])


@pytest.mark.parametrize("name", ["out/.wh.victim", "out/.wh..wh..opq"])
@pytest.mark.parametrize("target", ["{}", "../outside", "../../../../../../{}"])
def test_a_whiteout_through_a_link_deletes_nothing_outside(
    unpack: Unpack, outside: Path, name: str, target: str
) -> None:
    unpack([link("out", target.format(outside.parent))], [file(name)])
    assert_untouched(outside)


def test_a_whiteout_of_a_link_deletes_the_link_only(unpack: Unpack, outside: Path) -> None:
    root = unpack([link("out", str(outside.parent))], [whiteout("out")])
    assert content(root) == []
    assert_untouched(outside)


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "a/.wh..."])
def test_a_whiteout_of_nothing_or_of_the_parent_is_refused(unpack: Unpack, name: str) -> None:
    with pytest.raises(ImageInvalid, match="whiteout"):
        unpack([directory("a"), file(name)])


def test_a_loop_of_links_is_an_error(unpack: Unpack) -> None:
    with pytest.raises(OSError, match="symbolic links"):
        unpack([link("a", "b"), link("b", "a"), file("a/x")])


def test_a_name_with_nul_is_refused(unpack: Unpack) -> None:
    evil = file("x", pax_headers={"path": "a\0b"})
    with pytest.raises(ImageInvalid, match="NUL"):
        unpack([evil])


def test_too_many_entries_are_refused(unpack: Unpack) -> None:
    with pytest.raises(ImageInvalid, match="more than 10 files"):
        unpack([file(str(number)) for number in range(11)], max_entries=10)


def test_too_many_bytes_are_refused_over_all_layers(unpack: Unpack) -> None:
    with pytest.raises(ImageInvalid, match="larger than 150 bytes"):
        unpack([file("a", b"x" * 100)], [file("a", b"x" * 100)], max_bytes=150)


def test_a_size_that_is_only_claimed_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    info = tarfile.TarInfo("huge")
    info.size = 2**62
    budget = Budget(max_bytes=10**9, max_entries=10)
    with Unpacker(tmp_path, owner=None, budget=budget) as unpacker:
        with pytest.raises(ImageInvalid, match="larger than"):
            unpacker.apply(io.BytesIO(info.tobuf(tarfile.GNU_FORMAT)))
    assert content(tmp_path) == []


def test_a_decompression_bomb_is_stopped(tmp_path: Path) -> None:
    plain = layer(entry("dev", b"\0" * 10**7, type=tarfile.FIFOTYPE)) + b"\0" * 10**7
    packed = gzip.compress(plain)
    budget = Budget(max_bytes=10**6, max_entries=10)
    with Unpacker(tmp_path, owner=None, budget=budget) as unpacker:
        with pytest.raises(ImageInvalid, match="larger than"):
            with open_layer(Blob(open=lambda: io.BytesIO(packed)), digest(plain), budget) as tar:
                unpacker.apply(tar)
    assert budget.read < 2 * 10**6


def test_a_gzip_of_nothing_without_end_is_stopped() -> None:
    class Endless(io.RawIOBase):
        def read(self, size: int = -1, /) -> bytes:
            return gzip.compress(b"", mtime=0)

    budget = Budget(max_bytes=10**5, max_entries=10)
    with pytest.raises(ImageInvalid, match="larger than"):
        with open_layer(Blob(open=Endless), digest(b""), budget) as tar:
            tar.read(10)


def header(kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("h")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "archive",
    [
        pytest.param(header(tarfile.XHDTYPE, 2**33), id="huge extended header"),
        pytest.param(header(tarfile.GNUTYPE_LONGNAME, 2**33), id="huge name"),
        pytest.param(header(tarfile.REGTYPE, -512), id="negative size"),
        pytest.param(header(tarfile.GNUTYPE_SPARSE, 512), id="sparse file"),
        pytest.param(header(tarfile.XGLTYPE, 0) * 5000, id="headers without end"),
        pytest.param(b"no tar at all" * 100, id="text"),
        pytest.param(b"", id="nothing"),
        pytest.param(layer(file("f", b"x" * 5000))[:2000], id="cut"),
        pytest.param(
            layer(file("f", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})),
            id="sparse file of version 1",
        ),
    ],
)
def test_a_malicious_or_broken_archive_is_refused(tmp_path: Path, archive: bytes) -> None:
    with Unpacker(
        tmp_path, owner=None, budget=Budget(max_bytes=10**7, max_entries=100)
    ) as unpacker:
        with pytest.raises(ImageInvalid):
            unpacker.apply(io.BytesIO(archive))


def test_directories_nested_too_deep_are_refused_also_by_way_of_links(unpack: Unpack) -> None:
    deep = "/".join("a" * 150)
    with pytest.raises(ImageInvalid, match="nested deeper"):
        unpack([directory(deep), link("l", deep), file("l/" + "/".join("b" * 60))])


@pytest.mark.parametrize("seed", range(100))
def test_no_random_mixture_of_entries_reaches_the_outside(
    tmp_path: Path, outside: Path, seed: int
) -> None:
    """Goes on after an entry that is refused, so that the tree becomes as tangled as it can."""
    dice, root = Random(seed), tmp_path / "root"
    root.mkdir()
    budget = Budget(max_bytes=10**7, max_entries=1000)
    with Unpacker(root, owner=None, budget=budget) as unpacker:
        for _ in range(60):
            with suppress(ImageInvalid, OSError):
                entries = [random_entry(dice, outside) for _ in range(dice.randint(1, 3))]
                unpacker.apply(io.BytesIO(layer(*entries)))
        unpacker.finish()
    assert_untouched(outside)
    remove_tree(root)
    assert outside.read_text() == "untouched"


def random_entry(dice: Random, outside: Path) -> Entry:
    """Of few names, so that entries meet and replace each other."""
    name = "/".join(dice.choice("abc") for _ in range(dice.randint(1, 3)))
    up = "/".join([".."] * dice.randint(1, 6))
    targets = ["a", "/b/c", "../a", ".", "..", "/", up, str(outside.parent), f"{up}/outside"]
    below = f"{name}/{dice.choice(['victim', 'outside/victim', 'x'])}"
    return dice.choice(
        [
            link(name, dice.choice(targets)),
            link(name, dice.choice(targets)),
            directory(name, 0o777),
            file(dice.choice([name, below]), b"hacked", 0o777),
            hard_link(name, dice.choice(["a/victim", "b", below, "c/outside/victim"])),
            whiteout(dice.choice([name, below, f"{name}/outside"])),
            file(f"{name}/.wh..wh..opq"),
        ]
    )


@pytest.mark.parametrize("packed", [False, True])
def test_a_layer_with_another_digest_than_promised_is_refused(tmp_path: Path, packed: bool) -> None:
    plain = layer(file("f"))
    stored = gzip.compress(plain) if packed else plain
    budget = Budget(max_bytes=10**6, max_entries=10)
    wrong = digest(b"another")
    for blob, diff_id in (
        (Blob(open=lambda: io.BytesIO(stored)), wrong),
        (Blob(open=lambda: io.BytesIO(stored), digest=wrong), digest(plain)),
    ):
        with pytest.raises(ImageInvalid, match="digest"):
            with open_layer(blob, diff_id, budget) as tar:
                tar.read(10)


def test_a_damaged_gzip_is_refused(tmp_path: Path) -> None:
    stored = gzip.compress(os.urandom(10_000))[:5000]
    budget = Budget(max_bytes=10**6, max_entries=10)
    with pytest.raises(ImageInvalid, match="damaged"):
        with open_layer(Blob(open=lambda: io.BytesIO(stored)), digest(b""), budget) as tar:
            while tar.read(1000):
                pass
