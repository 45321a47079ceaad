"""Inputs and outputs in object stores: in memory, and on a real S3 server that the tests start."""

import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote
from urllib.request import Request, urlopen

import numpy as np
import pytest
from click.testing import CliRunner

from irn_cli.batch.jobs import Job, Outcome
from irn_cli.batch.line import run
from irn_cli.batch.outputs import Existing, Outputs, check_outputs
from irn_cli.batch.plan import plan_downscale, plan_upscale
from irn_cli.batch.storage import Storage
from irn_cli.batch.work import Downscaler, Upscaler
from irn_cli.cli import irn
from irn_cli.errors import InputError, OutputError, UsageError
from irn_cli.files import atomic_write
from irn_cli.image import read, write
from irn_cli.inputs import find_pictures
from irn_cli.paths import exists, is_remote, remove, same_file, to_path
from irn_cli.picture import Picture
from irn_cli.rescale import Rescaler
from irn_cli.weights import save_model
from tests.helpers import make_tiny_model, photo_like

pytest.importorskip("upath", reason="universal_pathlib is not installed: pip install 'irn-cli[remote]'")

call = partial(CliRunner().invoke, irn, standalone_mode=False)


@pytest.fixture
def store() -> Iterator[str]:
    """An empty bucket in memory."""
    root = to_path("memory://bucket")
    assert is_remote(root)
    yield "memory://bucket"
    root.fs.rm("/", recursive=True)


def put(url: str, height: int = 20, seed: int = 0) -> None:
    write(to_path(url), Picture(photo_like(height, 24, seed)))


def names(url: str) -> list[str]:
    path = to_path(url)
    assert is_remote(path)
    return sorted(key.removeprefix(path.path + "/") for key in path.fs.find(path.path))


def test_an_open_file_of_a_store_is_a_stream(store: str) -> None:
    picture, fs = Picture(photo_like(20, 24)), to_path(store).fs  # type: ignore[attr-defined]
    with fs.open("/bucket/a.png", "wb") as stream:
        write(stream, picture)
    with fs.open("/bucket/a.png", "rb") as stream:
        assert np.array_equal(read(stream).pixels, picture.pixels)


def test_urls_are_told_from_names() -> None:
    assert to_path("photos/a.jpg") == Path("photos/a.jpg")
    assert to_path("file:///photos/a b.jpg") == Path("/photos/a b.jpg")
    assert to_path("C:/photos") == Path("C:/photos")
    assert str(to_path("memory://bucket/a b.jpg")) == "memory://bucket/a b.jpg"
    with pytest.raises(UsageError, match=r"^cannot open xyz://a: .*pip install 'irn-cli\[remote\]'"):
        to_path("xyz://a")


def test_inputs_are_found_in_a_store_as_in_a_directory(store: str) -> None:
    for name in ("photos/b.png", "photos/a/c d.png", "photos/.hidden/e.png", "other/f.png"):
        put(f"{store}/{name}")
    with atomic_write(f"{store}/photos/notes.txt") as stream:
        stream.write(b"no picture")
    places = {str(one.path): (str(one.place), one.named) for one in find_pictures([f"{store}/photos"])}
    assert places == {f"{store}/photos/a/c d.png": ("a", False), f"{store}/photos/b.png": (".", False)}
    assert all(one.header and one.header.size == (20, 24) for one in find_pictures([f"{store}/photos"]))
    matched = find_pictures([f"{store}/*/*.png"])
    assert [(str(one.path), str(one.place)) for one in matched] == [
        (f"{store}/other/f.png", "other"),
        (f"{store}/photos/b.png", "photos"),
    ]
    named = find_pictures([f"{store}/photos/a/c d.png"], [f"{store}/photos/b.png"])
    assert [str(one.place) for one in named] == ["a", "."]
    with pytest.raises(InputError, match=r"^no such file or directory: memory://bucket/none$"):
        find_pictures([f"{store}/none"])


def batch(source: str, output: str, existing: Existing = "refuse", *, latent: bool = False) -> list[Outcome]:
    outputs = Outputs(output, existing)
    scaler = Rescaler(make_tiny_model(2), "cpu", "fp32")
    plan = check_outputs(plan_downscale(find_pictures([source]), outputs, 2, keep_latent=latent), outputs)
    events = run(plan, Downscaler(scaler=scaler, keep_latent=latent), Storage(outputs))
    return [event for event in events if isinstance(event, Outcome)]


def test_a_batch_from_store_to_store(store: str) -> None:
    for seed, name in enumerate(["b.png", "a/c.png", *(f"many/{k}.png" for k in range(10))]):
        put(f"{store}/photos/{name}", 20 + seed, seed)
    with atomic_write(f"{store}/photos/broken.png") as stream:
        stream.write(b"no picture")
    outcomes = batch(f"{store}/photos", f"{store}/small", latent=True)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    assert [outcome.reason.split(",")[0] for outcome in failed] == [
        f"{store}/photos/broken.png is not a picture that irn reads (PNG"
    ]
    assert len(outcomes) == 13
    assert names(f"{store}/small")[:4] == [
        "a/c_down2.latent.safetensors",
        "a/c_down2.png",
        "b_down2.latent.safetensors",
        "b_down2.png",
    ]
    assert str(outcomes[0].outputs[-1]) == f"{store}/small/a/c_down2.png"
    again = batch(f"{store}/photos", f"{store}/small", "skip", latent=True)
    assert [outcome.status for outcome in again].count("skipped") == 12
    refused = batch(f"{store}/photos", f"{store}/small")
    assert {outcome.status for outcome in refused} == {"failed"}
    assert f"{store}/small/a/c_down2.png exists already (--force replaces it" in refused[0].reason

    outputs = Outputs(f"{store}/large")
    plan = plan_upscale(find_pictures([f"{store}/small"]), outputs, None, samples=1, spread=False)
    work = Upscaler(load=lambda _: Rescaler(make_tiny_model(2), "cpu", "fp32"), model="irn-x2")
    large = [event for event in run(plan, work, Storage(outputs)) if isinstance(event, Outcome)]
    assert {outcome.status for outcome in large} == {"done"}, large
    for name in ("b", "a/c", "many/9"):
        original, restored = (read(to_path(f"{store}/{at}.png")) for at in (f"photos/{name}", f"large/{name}_up2"))
        assert np.array_equal(original.pixels, restored.pixels)


def test_files_of_a_store_are_removed_and_told_apart(store: str, tmp_path: Path) -> None:
    here, there = tmp_path / "a.png", to_path(f"{store}/a.png")
    for path in (here, there):
        with atomic_write(path) as stream:
            stream.write(b"a")
        assert same_file(path, path.parent / "a.png")
        remove(path)
        assert not exists(path)
        with pytest.raises(OSError, match=r"a\.png"):
            remove(path)
    (tmp_path / "b.png").touch()
    (tmp_path / "c.png").hardlink_to(tmp_path / "b.png")
    here.symlink_to(tmp_path / "b.png")
    assert same_file(tmp_path / "b.png", tmp_path / "c.png")
    assert not same_file(tmp_path / "b.png", here)
    assert not same_file(there, here)


def test_a_file_is_in_a_store_whole_or_not_at_all(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = f"{store}/a.png"
    with pytest.raises(ZeroDivisionError), atomic_write(target) as stream:
        stream.write(b"half")
        raise ZeroDivisionError
    assert not exists(to_path(target))
    with atomic_write(target) as stream:
        stream.write(b"whole")
        stream.flush()
        assert not exists(to_path(target))
    with pytest.raises(OutputError, match=r"^memory://bucket/a.png exists already"), atomic_write(target) as stream:
        stream.write(b"other")
    path = to_path(target)
    assert is_remote(path)
    assert path.read_bytes() == b"whole"

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("what a client says")

    monkeypatch.setattr(type(path.fs), "put_file", refuse)
    with (
        pytest.raises(OutputError, match=r"^cannot write memory://bucket/a.png: what a client says$"),
        atomic_write(target, overwrite=True) as stream,
    ):
        stream.write(b"third")
    assert path.read_bytes() == b"whole"


SERVER = """
import sys
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://%s:%d" % server.get_host_and_port(), flush=True)
sys.stdin.read()
server.stop()
"""


@contextmanager
def started(script: str) -> Iterator[str]:
    """A server in a process of its own, which prints its address and serves until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.communicate(timeout=60)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A real S3 server on this machine."""
    for name in ("s3fs", "moto", "flask_cors"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'irn-cli[dev]'")
    with started(SERVER) as address:
        yield address


def made_small(bucket: str, stored: Callable[[], list[str]]) -> list[str]:
    """Make a bucket's photos small, one of which is broken, twice more where all is done; the first command line.

    Args:
        bucket: its URL.
        stored: lists the names of what is in it.
    """
    down = ["downscale", f"{bucket}/photos", "-o", f"{bucket}/small", "--keep-latent"]
    foretold = call([*down, "--dry-run"])
    assert foretold.return_value == 0, (foretold.output, foretold.exception)
    assert "to do: 3 pictures" in foretold.stdout
    done = call([*down, "--json"])
    assert done.return_value == 1, (done.output, done.exception)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["source"], row["status"]) for row in rows] == [
        (f"{bucket}/photos/a b/one.png", "done"),
        (f"{bucket}/photos/broken.jpg", "failed"),
        (f"{bucket}/photos/two.png", "done"),
    ]
    assert [name for name in stored() if name.startswith("small/")] == [
        "small/a b/one_down4.latent.safetensors",
        "small/a b/one_down4.png",
        "small/two_down4.latent.safetensors",
        "small/two_down4.png",
    ]
    assert "2 skipped, 1 failed" in call([*down, "--skip-existing"]).stderr
    assert "2 skipped, 1 failed" in call([*down, "--update"]).stderr
    return down


def test_a_batch_on_s3(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from s3fs import S3FileSystem

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("IRN_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.chdir(tmp_path)
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    for name in ("a b/one.png", "two.png"):
        write(tmp_path / "photo.png", Picture(photo_like(22, 30, len(name))), overwrite=True)
        client.upload_file(str(tmp_path / "photo.png"), "bucket", f"photos/{name}")
    client.put_object(Bucket="bucket", Key="photos/broken.jpg", Body=b"no picture")
    save_model(tmp_path / "weights" / "irn-x4.safetensors", make_tiny_model(4))
    down = made_small(
        "s3://bucket", lambda: [one["Key"] for one in client.list_objects_v2(Bucket="bucket")["Contents"]]
    )
    time.sleep(1)  # S3 counts in seconds
    client.upload_file(str(tmp_path / "photo.png"), "bucket", "photos/two.png")
    assert "1 done, 1 skipped, 1 failed" in call([*down, "--update"]).stderr

    (tmp_path / "list").write_text("s3://bucket/small/two_down4.png\n")
    large = call(["upscale", "--files-from", "list", "-o", f"file://{tmp_path}/large.png"])
    assert large.return_value == 0, large.output
    assert np.array_equal(read(tmp_path / "large.png").pixels, photo_like(22, 30, len("two.png")))

    S3FileSystem.clear_instance_cache()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    unknown = call(down)
    assert isinstance(unknown.exception, InputError)
    assert str(unknown.exception) == "s3://bucket/photos: Unable to locate credentials"


GOOGLE = """
import socket
import sys
from gcp_storage_emulator.server import create_server

with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
with create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket"):
    print(f"http://127.0.0.1:{port}", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server on this machine with the interface of Google Cloud Storage, and an empty bucket in it."""
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # else it asks for the bucket's kind, by gRPC
    for name in ("gcsfs", "gcp_storage_emulator"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'irn-cli[dev]'")
    from fsspec.config import conf
    from gcsfs import GCSFileSystem

    with started(GOOGLE) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        monkeypatch.setitem(conf, "gs", {"token": "anon"})
        GCSFileSystem.clear_instance_cache()
        yield address
        GCSFileSystem.clear_instance_cache()


def test_a_batch_on_google_cloud_storage(google: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRN_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "weights" / "irn-x4.safetensors", make_tiny_model(4))

    def request(path: str, data: bytes | None = None) -> bytes:
        with urlopen(Request(f"{google}{path}", data), timeout=30) as answer:
            return bytes(answer.read())

    def put(name: str, data: bytes) -> None:
        request(f"/upload/storage/v1/b/bucket/o?uploadType=media&name={quote(name, safe='')}", data)

    for name in ("a b/one.png", "two.png"):
        write(tmp_path / "photo.png", Picture(photo_like(22, 30, len(name))), overwrite=True)
        put(f"photos/{name}", (tmp_path / "photo.png").read_bytes())
    put("photos/broken.jpg", b"no picture")

    made_small("gs://bucket", lambda: [one["name"] for one in json.loads(request("/storage/v1/b/bucket/o"))["items"]])
    large = call(["upscale", "gs://bucket/small/*.png", "-o", f"file://{tmp_path}/large"])
    assert large.return_value == 0, (large.output, large.exception)
    restored = read(tmp_path / "large" / "two_up4.png").pixels
    assert np.array_equal(restored, photo_like(22, 30, len("two.png")))


def test_pictures_of_a_store_are_measured_and_compared(store: str, tmp_path: Path) -> None:
    originals = tmp_path / "originals"
    for seed, name in enumerate(["a.png", "b/c.png", ".hidden/d.png"]):
        picture = Picture(photo_like(64, 72, seed))
        for at in (f"{store}/photos/{name}", f"{store}/other/photos/{name}", originals / "photos" / name):
            write(at, picture)
    write(to_path(f"{store}/photos/own.png"), Rescaler(make_tiny_model(4), "cpu", "fp32").downscale(picture))

    def measure(data: str, results: str) -> list[dict[str, object]]:
        command = ["eval", "--data", data, "--baseline", "bicubic", "--results", f"same={results}", "--json", "-", "-q"]
        done = call([*command, "--report", str(tmp_path / f"{len(data)}.html")])
        assert done.return_value == 0, (done.output, done.exception)
        assert ("left out as made by irn: 1" in done.stderr) == data.startswith("memory")
        return [{**row, "seconds": 0} for row in json.loads(done.stdout)["pictures"]]

    there = measure(f"{store}/photos", f"{store}/other")
    assert [row["name"] for row in there] == ["a.png", "a.png", "b/c.png", "b/c.png"]
    assert [row["psnr_y"] for row in there[1::2]] == [None, None]  # infinite
    assert there == measure(str(originals / "photos"), f"{store}/other/photos")

    compared = call(["compare", f"{store}/photos", str(originals / "photos"), "--json"])
    assert [json.loads(row)["name"] for row in compared.stdout.splitlines()] == ["a.png", "b/c.png", "own.png"]
    assert "no picture for own.png" in compared.stderr
    gone = call(["eval", "--data", f"{store}/none"])
    assert str(gone.exception) == f"no folder {store}/none"


def test_paths_reach_the_workers_of_a_cluster(store: str) -> None:
    job = Job(to_path(f"{store}/photos/a b.png"), (to_path(f"{store}/small/a b.png"),))
    assert pickle.loads(pickle.dumps(job)) == job
