"""A data set reads its own files: whatever its README says, nothing of elsewhere and no URL."""

import gzip
import json
import os
import pickle
import socket
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import yaml

from lexp.data.hub import Hub
from lexp.data.hub_folder import check_files, check_names
from lexp.data.text import TextFiles
from lexp.system.errors import DataError
from support.faults.payloads import Gadget

SECRET = "what nobody else may read"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """A data set of one file, a secret beside it, and no network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))

    def connect(*address):
        raise AssertionError(f"a connection to {address}")

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(socket.socket, "connect", connect)
    (tmp_path / "secret.txt").write_text(SECRET)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "train.txt").write_text(SECRET)
    (tmp_path / "set" / "data").mkdir(parents=True)
    (tmp_path / "set" / "data" / "train.txt").write_text("of the set")
    return tmp_path / "set"


def read(folder: Path) -> list[str]:
    hub = Hub(str(folder), validation=None, test=None)
    hub.fingerprint()
    return [document.text for document in hub.documents("train")]


def card(folder: Path, text: str) -> None:
    (folder / "README.md").write_text(f"---\n{text}\n---\nwords\n")


def configs(files: object) -> str:
    return yaml.safe_dump({"configs": [{"config_name": "default", "data_files": files}]})


ELSEWHERE = [
    "../secret.txt", "data/../../secret.txt", "/etc/passwd", "FOLDER/../secret.txt", "~/x.txt",
    "http://127.0.0.1:9/x.jsonl", "https://localhost/x.txt", "ftp://localhost/x.txt",
    "hf://datasets/other/set/x.txt", "s3://bucket/x.txt", "file:///etc/passwd", "//etc/passwd",
    "zip://x.txt::../secret.zip", "zip://x.txt::http://127.0.0.1:9/x.zip", "simplecache::../x",
    "..\\secret.txt", "*/../../secret*", "memory://x.txt", "local:/etc/passwd", "../*.txt",
]  # fmt: skip


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_card_names_nothing_of_elsewhere(folder, name):
    name = name.replace("FOLDER", str(folder))
    for files in (name, [name], {"train": name}, [{"split": "train", "path": ["data/*", name]}]):
        card(folder, configs(files))
        with pytest.raises(DataError, match=r"README.md: data_files: .* is not a file below"):
            read(folder)
    (folder / "README.md").unlink()
    (folder / ".huggingface.yaml").write_text(configs({"train": name}))
    with pytest.raises(DataError, match=r"huggingface.yaml: data_files"):
        read(folder)


def test_a_folder_of_data_is_not_of_elsewhere_either(folder):
    card(folder, yaml.safe_dump({"configs": [{"config_name": "default", "data_dir": "../secret"}]}))
    with pytest.raises(DataError, match=r"data_dir: '../secret'"):
        read(folder)


@pytest.mark.parametrize("where", ["README.md", "dataset_infos.json"])
def test_names_of_classes_are_not_read_from_a_file(folder, where):
    if where == "README.md":
        label = {"names_file": str(folder.parent / "secret.txt")}
        features = [{"name": "text", "dtype": {"class_label": label}}]
        card(folder, yaml.safe_dump({"dataset_info": {"features": features}}))
    else:
        label = {"_type": "ClassLabel", "names_file": str(folder.parent / "secret.txt")}
        (folder / where).write_text(json.dumps({"default": {"features": {"text": label}}}))
    with pytest.raises(DataError, match=rf"{where}: names_file"):
        read(folder)


LINKS = {"file": ("data/train-1.txt", "../../secret.txt"), "folder": ("data", "../secret"),
         "card": ("README.md", "../secret.txt")}  # fmt: skip


@pytest.mark.parametrize("kind", LINKS)
def test_no_link_leads_out(folder, kind):
    name, target = LINKS[kind]
    if kind == "folder":
        (folder / "data").rename(folder / "other")
        card(folder, configs("data/train.txt"))
    (folder / name).symlink_to(target)
    assert (folder / name).exists()
    with pytest.raises(DataError, match="put a copy into the folder"):
        read(folder)


def test_links_are_followed_in_the_hubs_cache_and_where_the_user_types_a_glob(folder):
    snapshot = folder.parent / "hub" / "snapshots" / "0123abcd"
    (snapshot / "data").mkdir(parents=True)
    (folder.parent / "hub" / "blobs").mkdir()
    for name, text in (("data/train.txt", "of the cache"), ("README.md", "---\n{}\n---\n")):
        blob = folder.parent / "hub" / "blobs" / name.replace("/", "-")
        blob.write_text(text)
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    assert read(snapshot) == ["of the cache"]
    (snapshot / "data" / "train-1.txt").symlink_to(folder.parent / "secret.txt")
    with pytest.raises(DataError, match="put a copy into the folder"):
        read(snapshot)
    (folder / "mine.txt").symlink_to(folder.parent / "secret.txt")
    typed = TextFiles(train=f"{folder}/*.txt")
    assert [document.text for document in typed.documents("train")] == [SECRET]


def test_a_data_set_within_its_folder_is_read(folder):
    card(folder, configs([{"split": "train", "path": ["data/*.txt"]}]))
    assert read(folder) == ["of the set"]
    link = folder.parent / "linked"
    link.symlink_to(folder)
    assert read(link) == ["of the set"]
    (folder / "set.py").write_text("raise SystemExit('run')\n")
    with pytest.raises(DataError, match="scripts are no longer supported"):
        read(folder)


@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json"])
def test_the_state_of_saved_data_sets_is_not_followed(folder, name):
    (folder / name).write_text(json.dumps({"_data_files": [{"filename": "../secret.txt"}]}))
    with pytest.raises(DataError, match="save_to_disk"):
        read(folder)


OTHER_READERS = {
    "tar": "webdataset", "h5": "hdf5", "xml": "xml", "png": "imagefolder", "eval": "eval",
    "lance": "lance",
}  # fmt: skip


@pytest.mark.parametrize("suffix", OTHER_READERS)
def test_only_readers_of_texts_are_used(folder, suffix):
    """A tar can hold pickled tensors, which `datasets` would hand to torch.load."""
    (folder / "data" / "train.txt").unlink()
    path = folder / "data" / f"train.{suffix}"
    path.write_bytes(b"x")
    if suffix == "tar":
        (folder / "a.pth").write_bytes(pickle.dumps(Gadget(folder / "canary")))
        with tarfile.open(path, "w") as archive:
            archive.add(folder / "a.pth", "a.pth")
        (folder / "a.pth").unlink()
    with pytest.raises(DataError, match=f"are read as {OTHER_READERS[suffix]}; texts are read as"):
        read(folder)
    assert not (folder / "canary").exists()


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "txt.gz"])
def test_texts_are_read_whatever_their_form(folder, suffix):
    (folder / "data" / "train.txt").unlink()
    forms = {"csv": b"text\na b\n", "txt.gz": gzip.compress(b"a b\n")}
    data = forms.get(suffix, b'{"text": "a b"}\n')
    (folder / "data" / f"train.{suffix}").write_bytes(data)
    assert read(folder) == ["a b"]


@pytest.mark.parametrize("dtype", ["image", "audio"])
def test_a_row_that_names_a_file_is_no_file(folder, dtype):
    (folder / "data" / "train.txt").unlink()
    row = pa.array([{"bytes": None, "path": str(folder.parent / "secret.txt")}])
    parquet.write_table(pa.table({"text": row}), folder / "data" / "train.parquet")
    card(folder, yaml.safe_dump({"dataset_info": {"features": [{"name": "text", "dtype": dtype}]}}))
    with pytest.raises(DataError, match="column 'text' is dict, not text"):
        read(folder)


@pytest.mark.parametrize("text", ["configs: [", "configs: 1", "- a", "x: !!python/name:os.system"])
def test_a_card_that_is_none_ends_in_one_line(folder, text):
    card(folder, text)
    with pytest.raises(DataError) as caught:
        read(folder)
    assert str(folder) in str(caught.value)


def test_a_digest_reads_no_file_whole(folder, monkeypatch):
    before = Hub(str(folder)).fingerprint()
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} read at once"))
    assert Hub(str(folder)).fingerprint() == before
    (folder / "data" / "train.txt").write_text("other")
    assert Hub(str(folder)).fingerprint() != before


def test_a_data_set_of_the_hub_reads_its_own_repository():
    own = "hf://datasets/Org/Name@0123abcd/data/train.txt"
    check_files([own], "org/name")
    for other in ("/etc/passwd", "hf://datasets/org/other@1/x", f"zip://x::{own}", "https://x/y"):
        with pytest.raises(DataError, match="is not in it"):
            check_files([own, other], "org/name")
    with pytest.raises(DataError, match="README of org/name: data_files: '/etc/passwd'"):
        check_names({"configs": [{"data_files": "/etc/passwd"}]}, "README of org/name")
