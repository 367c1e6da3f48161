"""The store of images: archives in, unpacked roots out, once for everybody."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from executors.errors import ImageUnavailable, InfrastructureError
from executors.sandbox.blobs import ImageInvalid
from executors.sandbox.images import ImageStore
from executors.sandbox.references import parse_reference
from tests.executors.image_archives import (
    INDEX,
    MANIFEST,
    blob_path,
    config,
    descriptor,
    digest,
    directory,
    docker_save,
    file,
    hard_link,
    index,
    layer,
    link,
    manifest,
    oci_layout,
    tar_of,
    write_tree,
)

BASE = layer(directory("bin", 0o555), file("bin/sh", b"shell", 0o755))
UPPER = layer(file("app", b"program", 0o755))
NAME = "docker.io/library/app:1"


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "store")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """What `docker save app:1` writes."""
    path = tmp_path / "app.tar"
    path.write_bytes(tar_of(docker_save(["app:1"], [BASE, UPPER], Cmd=["/app"])))
    return path


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3.20", "docker.io/library/alpine:3.20"),
        ("ls1tum/artemis-maven-template:java17-18", None),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
        ("index.docker.io/library/alpine", "docker.io/library/alpine:latest"),
        ("localhost/a/b", "localhost/a/b:latest"),
        ("host:5000/a/b:tag", "host:5000/a/b:tag"),
        ("ghcr.io/a/b_c.d--e/f:1.0", "ghcr.io/a/b_c.d--e/f:1.0"),
        (f"alpine@sha256:{'0' * 64}", f"docker.io/library/alpine@sha256:{'0' * 64}"),
        (f"a.io/b:tag@sha256:{'0' * 64}", f"a.io/b@sha256:{'0' * 64}"),
    ],
)
def test_references_are_read_as_docker_reads_them(text: str, normalised: str | None) -> None:
    assert str(parse_reference(text)) == (normalised or f"docker.io/{text}")
    assert str(parse_reference(str(parse_reference(text)))) == (normalised or f"docker.io/{text}")


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "a:", "a@", "a:b:c", "a@sha256:00", "Alpine", "a b", "a\n", "a\0b", "a:b/c!"),
        *("../a", "a/../b", "/a", "a//b", "host.io/", "-", "--help", "x" * 300, "a:" + "t" * 129),
    ],
)
def test_what_is_no_reference_is_refused_with_the_reason(store: ImageStore, text: str) -> None:
    with pytest.raises(ImageUnavailable, match="invalid reference format"):
        store.get(text)


@pytest.mark.parametrize(
    ("registry", "loopback"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("[::1]:5000", True),
        ("127.evil.io", False),
        ("localhost.evil.io", False),
        ("10.0.0.1:5000", False),
    ],
)
def test_only_registries_on_this_machine_are_spoken_to_without_tls(
    registry: str, loopback: bool
) -> None:
    assert parse_reference(f"{registry}/a").loopback is loopback


def test_an_archive_of_docker_save_is_loaded(store: ImageStore, archive: Path) -> None:
    [image] = store.load(archive)
    assert image.reference == NAME
    assert image.digest == digest(config([BASE, UPPER], Cmd=["/app"]))
    assert (image.rootfs / "bin/sh").read_bytes() == b"shell"
    assert (image.rootfs / "app").read_bytes() == b"program"
    assert stat.S_IMODE((image.rootfs / "bin").stat().st_mode) == 0o555
    assert image.config.cmd == ("/app",)
    assert image.size == len(b"shell" + b"program")


@pytest.mark.parametrize("reference", ["app:1", "docker.io/app:1", NAME])
def test_a_loaded_image_is_found_by_any_form_of_its_name(
    store: ImageStore, archive: Path, reference: str
) -> None:
    [image] = store.load(archive)
    assert store.find(reference) == store.get(reference) == image
    assert store.find("app:2") is None


def test_the_config_is_read_in_full(store: ImageStore, tmp_path: Path) -> None:
    settings = {
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": None,
        "Env": ["PATH=/bin", "EMPTY=", "EQUALS=a=b", "BARE"],
        "User": "1000:1000",
        "WorkingDir": "/src",
    }
    files = docker_save(["app:1"], [BASE], **settings)
    [image] = store.load(write_tree(tmp_path / "saved", files))
    assert image.config.entrypoint == ("/bin/sh", "-c")
    assert image.config.cmd == ()
    assert image.config.env == {"PATH": "/bin", "EMPTY": "", "EQUALS": "a=b", "BARE": ""}
    assert (image.config.user, image.config.working_dir) == ("1000:1000", "/src")
    assert store.find("app:1") == image


@pytest.mark.parametrize("form", ["tar", "tar.gz", "directory"])
def test_an_oci_layout_is_loaded(store: ImageStore, tmp_path: Path, form: str) -> None:
    files = oci_layout("app:1", [BASE, UPPER], [gzip.compress(BASE), UPPER])
    path = tmp_path / "layout"
    if form == "directory":
        write_tree(path, files)
    else:
        path.write_bytes(gzip.compress(tar_of(files)) if form == "tar.gz" else tar_of(files))
    [image] = store.load(path)
    assert image.reference == NAME
    assert (image.rootfs / "app").read_bytes() == b"program"


def test_of_an_index_the_image_for_this_machine_is_taken(store: ImageStore, tmp_path: Path) -> None:
    about, other = config([UPPER]), config([BASE])
    mine, foreign = manifest(about, [UPPER]), manifest(other, [BASE])
    strange = {"os": "linux", "architecture": "s390x"}
    ours = {"os": "linux", "architecture": json.loads(about)["architecture"]}
    inner = index(
        descriptor(MANIFEST, foreign, platform=strange), descriptor(MANIFEST, mine, platform=ours)
    )
    named = {"io.containerd.image.name": NAME}
    files = {
        "index.json": index(descriptor(INDEX, inner, annotations=named)),
        **{blob_path(data): data for data in (about, mine, inner, UPPER)},
    }
    [image] = store.load(write_tree(tmp_path / "layout", files))
    assert (image.reference, image.digest) == (NAME, digest(about))


def test_an_image_for_another_machine_is_refused(store: ImageStore, tmp_path: Path) -> None:
    files = oci_layout("app:1", [BASE])
    strange = {"os": "linux", "architecture": "s390x"}
    files["index.json"] = index(descriptor(MANIFEST, manifest(b"", []), platform=strange))
    with pytest.raises(ImageInvalid, match="not made for linux"):
        store.load(write_tree(tmp_path / "layout", files))


def test_a_layer_that_docker_save_only_links_to_is_read(store: ImageStore, tmp_path: Path) -> None:
    files = docker_save(["app:1"], [BASE, UPPER])
    listing = json.loads(files["manifest.json"])
    listing[0]["Layers"] = ["a/layer.tar", "b/layer.tar"]
    about = files[listing[0]["Config"]]
    path = tmp_path / "app.tar"
    path.write_bytes(
        layer(
            file(listing[0]["Config"], about),
            file("c/layer.tar", BASE),
            link("a/layer.tar", "../c/layer.tar"),
            file("d", UPPER),
            hard_link("b/layer.tar", "d"),
            file("manifest.json", json.dumps(listing).encode()),
        )
    )
    [image] = store.load(path)
    assert (image.rootfs / "bin/sh").exists()
    assert (image.rootfs / "app").exists()


def test_an_image_without_a_name_is_known_by_its_digest(store: ImageStore, tmp_path: Path) -> None:
    [image] = store.load(write_tree(tmp_path / "saved", docker_save(None, [BASE])))
    assert image.reference == image.digest
    assert store.list() == [image]
    assert store.find(image.digest) == image
    store.remove(image.digest)
    assert store.list() == []


def test_the_same_content_is_unpacked_once_and_kept_until_its_last_name_goes(
    store: ImageStore, tmp_path: Path
) -> None:
    for name in ("one:1", "two:1"):
        store.load(write_tree(tmp_path / name, docker_save([name], [BASE])))
    first, second = store.list()
    assert first.rootfs == second.rootfs
    store.remove("one:1")
    store.remove("one:1")
    assert store.list() == [second]
    assert second.rootfs.exists()
    store.remove("two:1")
    assert store.list() == []
    assert not second.rootfs.parent.exists()


def test_removing_a_digest_removes_all_its_names(store: ImageStore, tmp_path: Path) -> None:
    files = docker_save(["one:1", "two:1"], [BASE])
    image, _ = store.load(write_tree(tmp_path / "saved", files))
    store.remove(image.digest)
    assert store.list() == []
    assert store.find("one:1") is None


def test_a_name_that_moves_means_the_new_image(store: ImageStore, tmp_path: Path) -> None:
    store.load(write_tree(tmp_path / "1", docker_save(["app:1"], [BASE])))
    [image] = store.load(write_tree(tmp_path / "2", docker_save(["app:1"], [UPPER])))
    assert store.find("app:1") == image
    assert len(store.list()) == 2


def test_an_empty_store_has_nothing_and_is_not_created_by_looking(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "store")
    assert store.list() == []
    assert store.find("app:1") is None
    store.remove("app:1")
    assert not (tmp_path / "store").exists()


def broken(change: str) -> dict[str, bytes]:
    """A `docker save` with one thing wrong."""
    files = docker_save(["app:1"], [BASE])
    [entry] = json.loads(files["manifest.json"])
    if change == "layer":
        files["0/layer.tar"] = UPPER
    elif change == "config":
        files[entry["Config"]] += b" "
    elif change == "missing":
        del files["0/layer.tar"]
    elif change == "JSON":
        files["manifest.json"] = b"{" * 100_000
    elif change == "outside":
        entry["Layers"] = ["../../../../../../../etc/passwd"]
        files["manifest.json"] = json.dumps([entry]).encode()
    elif change == "shape":
        files["manifest.json"] = json.dumps([{"Config": 5}]).encode()
    elif change == "tag":
        entry["RepoTags"] = ["../../x"]
        files["manifest.json"] = json.dumps([entry]).encode()
    elif change == "count":
        entry["Layers"] = []
        files["manifest.json"] = json.dumps([entry]).encode()
    elif change == "no image":
        files = {"readme": b""}
    return files


@pytest.mark.parametrize("form", ["tar", "directory"])
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("layer", "digest"),
        ("config", "digest"),
        ("missing", "missing"),
        ("JSON", "not JSON"),
        ("outside", "missing|outside"),
        ("shape", "not a"),
        ("tag", "invalid name"),
        ("count", "0 layers, not 1"),
        ("no image", "neither"),
    ],
)
def test_a_broken_archive_is_refused_and_leaves_nothing(
    store: ImageStore, tmp_path: Path, change: str, why: str, form: str
) -> None:
    path = tmp_path / "saved"
    files = broken(change)
    if form == "tar":
        path.write_bytes(tar_of(files))
    else:
        write_tree(path, files)
    with pytest.raises(ImageInvalid, match=why):
        store.load(path)
    assert store.list() == []
    assert list((tmp_path / "store/incoming").iterdir()) == []


@pytest.mark.parametrize("about", [b"[]", b"{", b"\xff", b'{"config": 5}', b'{"rootfs": []}', b""])
def test_a_config_that_is_none_is_refused(store: ImageStore, tmp_path: Path, about: bytes) -> None:
    files = docker_save(["app:1"], [BASE])
    files["config"] = about
    listing = [{"Config": "config", "RepoTags": ["app:1"], "Layers": ["0/layer.tar"]}]
    files["manifest.json"] = json.dumps(listing).encode()
    with pytest.raises(ImageInvalid):
        store.load(write_tree(tmp_path / "saved", files))


def test_a_layout_whose_blob_is_a_link_out_of_it_is_refused(
    store: ImageStore, tmp_path: Path
) -> None:
    layout = write_tree(tmp_path / "layout", oci_layout("app:1", [BASE]))
    (tmp_path / "outside").write_bytes(BASE)
    blob = layout / blob_path(BASE)
    blob.unlink()
    blob.symlink_to(tmp_path / "outside")
    with pytest.raises(ImageInvalid, match="missing"):
        store.load(layout)


@pytest.mark.parametrize("name", ["text", "absent"])
def test_a_file_that_is_no_archive_is_refused(store: ImageStore, tmp_path: Path, name: str) -> None:
    (tmp_path / "text").write_text("hello " * 1000)
    with pytest.raises(ImageInvalid):
        store.load(tmp_path / name)


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, archive: Path) -> None:
    with pytest.raises(ImageInvalid, match="larger than 100 bytes"):
        ImageStore(tmp_path / "store", max_bytes=100).load(archive)
    with pytest.raises(ImageInvalid, match="more than 2 files"):
        ImageStore(tmp_path / "store", max_entries=2).load(archive)


def test_a_gzip_bomb_around_the_archive_is_stopped(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.tar.gz"
    bomb.write_bytes(gzip.compress(b"\0" * 10**7))
    with pytest.raises(ImageInvalid, match="larger than"):
        ImageStore(tmp_path / "store", max_bytes=10**6).load(bomb)


def test_what_a_dead_process_left_half_made_is_swept_and_what_lives_is_not(
    store: ImageStore, archive: Path, tmp_path: Path
) -> None:
    """The other process dies, or waits, in the middle of unpacking a pipe that it reads."""
    incoming = tmp_path / "store/incoming"
    with unpacking_elsewhere(tmp_path / "store") as (alive, _):
        with unpacking_elsewhere(tmp_path / "store") as (dead, process):
            process.kill()
            process.wait()
        assert {path.name for path in incoming.iterdir()} == {alive, dead}
        store.load(archive)
        assert {path.name for path in incoming.iterdir()} == {alive}
    assert store.find("app:1")


WORKSHOP = """
import sys; from pathlib import Path; from executors.sandbox.locks import workshop
root = Path(sys.argv[1])
for name in ("incoming", "locks"): (root / name).mkdir(parents=True, exist_ok=True)
with workshop(root / "incoming", root / "locks/store.lock") as made:
    (made / "half").mkdir(); (made / "half/file").touch(); (made / "half").chmod(0)
    print(made.name, flush=True); sys.stdin.read()
"""


@contextmanager
def unpacking_elsewhere(root: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Another process with a workshop in the store, until the block is left."""
    argv = [sys.executable, "-c", WORKSHOP, str(root)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        yield process.stdout.readline().strip(), process
        process.communicate()


def test_processes_that_load_the_same_image_at_once_all_get_it(
    store: ImageStore, archive: Path, tmp_path: Path
) -> None:
    script = (
        "import sys; from pathlib import Path; from executors.sandbox.images import ImageStore\n"
        "[image] = ImageStore(Path(sys.argv[1])).load(Path(sys.argv[2])); print(image.rootfs)"
    )
    argv = [sys.executable, "-c", script, str(tmp_path / "store"), str(archive)]
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(subprocess.check_output, argv, text=True) for _ in range(4)]
        roots = {run.result().strip() for run in runs}
    [image] = store.list()
    assert roots == {str(image.rootfs)}
    assert list((tmp_path / "store/incoming").iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_disk_that_does_not_take_it_is_the_machines_failure(
    tmp_path: Path, archive: Path
) -> None:
    (tmp_path / "store").mkdir(mode=0o500)
    with pytest.raises(InfrastructureError):
        ImageStore(tmp_path / "store").load(archive)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_as_root_all_unpacked_files_belong_to_the_owner(tmp_path: Path, archive: Path) -> None:
    [image] = ImageStore(tmp_path / "store", owner=61_000).load(archive)
    paths = [image.rootfs, *image.rootfs.rglob("*")]
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in paths} == {(61_000, 61_000)}


def test_an_archive_that_skopeo_wrote_is_loaded(store: ImageStore, tmp_path: Path) -> None:
    skopeo = shutil.which("skopeo")
    if skopeo is None:
        pytest.skip("skopeo is not installed")
    layout = write_tree(tmp_path / "layout", oci_layout("app:1", [BASE, UPPER]))
    for kind in ("docker-archive", "oci-archive"):
        target = tmp_path / f"{kind}.tar"
        subprocess.run(
            [skopeo, "--insecure-policy", "copy", f"oci:{layout}:app:1", f"{kind}:{target}:app:1"],
            check=True,
            capture_output=True,
        )
        [image] = store.load(target)
        assert image.reference == NAME
        assert (image.rootfs / "app").read_bytes() == b"program"
