"""The event file of tensorboard=true: read record by record, and with TensorBoard's own reader."""

import json
import struct
from pathlib import Path

import pytest

from lexp.commands.train import train
from lexp.record.event_file import FILE_NAME, EventFile
from support.training import interrupt_after


def crc32c(data: bytes) -> int:
    """Bit by bit, as RFC 3720 defines it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 0x80:
            return value, at


def message(data: bytes) -> list[tuple[int, int | bytes]]:
    """The fields of a message of protocol buffers, numbers as they lie there."""
    at, found = 0, []
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = varint(data, at)
        else:
            size, at = varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            value, at = data[at : at + size], at + size
        found.append((key >> 3, value))
    return found


def events(path: Path) -> list[tuple[int, dict[str, float]]]:
    """Step and numbers of each event; both checksums of each record hold."""
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        (size,) = struct.unpack("<Q", data[at : at + 8])
        event = data[at + 12 : at + 12 + size]
        for text, place in ((data[at : at + 8], at + 8), (event, at + 12 + size)):
            crc = crc32c(text)
            masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
            assert struct.unpack("<I", data[place : place + 4]) == (masked,)
        fields = dict(message(event))
        summary = message(fields.get(5, b""))
        numbers = [dict(message(value)) for _, value in summary]
        found.append(
            (fields.get(2, 0), {n[1].decode(): struct.unpack("<f", n[2])[0] for n in numbers})
        )
        at += size + 16
    return found


def test_checksums_are_those_of_rfc_3720():
    assert crc32c(b"123456789") == 0xE3069283


def test_a_resumed_run_continues_in_its_file_and_has_each_step_once(tiny, monkeypatch):
    """Killed after step 6, resumed from step 4: the numbers are those of metrics.jsonl."""
    config = tiny("tensorboard=true")
    with interrupt_after(monkeypatch, 6):
        train(config)
    (path,) = Path(config.outputs).glob(f"default/*/{FILE_NAME}")
    assert {n for n, _ in events(path)} == set(range(7))
    train(config)

    lines = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
    wanted = [
        (line["step"], {f"{line['event']}/{key}": value for key, value in line.items()
                        if key not in ("event", "step")})
        for line in lines
    ]  # fmt: skip
    head, *found = events(path)
    assert head == (0, {}) and [step for step, _ in found] == [step for step, _ in wanted]
    assert {step for step, _ in found} == set(range(1, 11))
    for (_, numbers), (_, other) in zip(found, wanted, strict=True):
        assert numbers == pytest.approx(other, rel=1e-6)


def logged(folder: Path) -> tuple[Path, list[int]]:
    """A file with steps 1, 300 and 40000, and its size before each."""
    file, sizes = EventFile(folder, 0), []
    path = folder / FILE_NAME
    for step in (1, 300, 40_000):
        sizes.append(path.stat().st_size)
        file.log(step, {"train/loss": step / 7, "große": float("inf"), "much": 1e300})
    file.finish()
    return path, [*sizes, path.stat().st_size]


def test_it_is_cut_behind_the_step_that_a_checkpoint_holds(tmp_path):
    path, sizes = logged(tmp_path)
    whole = path.read_bytes()
    assert [step for step, _ in events(path)] == [0, 1, 300, 40_000]
    assert events(path)[3][1]["much"] == float("inf")
    for step, size in {0: 0, 1: 1, 299: 1, 300: 2, 39_999: 2, 40_000: 3, 1 << 40: 3}.items():
        path.write_bytes(whole)
        EventFile(tmp_path, step).finish()
        assert path.read_bytes() == whole[: sizes[size]], step


def test_a_record_that_is_not_whole_is_cut_off(tmp_path):
    path, sizes = logged(tmp_path)
    whole = path.read_bytes()
    torn = [whole[:size] for size in range(sizes[2] + 1, sizes[3])]
    broken = [
        whole[:at] + bytes([whole[at] ^ 64]) + whole[at + 1 :] for at in range(sizes[2], sizes[3])
    ]
    zeros = [whole[: sizes[2]] + bytes(n) for n in (1, 16, 4096)]
    for data in (*torn, *broken, *zeros):
        path.write_bytes(data)
        EventFile(tmp_path, 1 << 40).finish()
        assert path.read_bytes() == whole[: sizes[2]]


def test_tensorboard_itself_reads_it(tmp_path):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed: pip install 'lexp[tensorboard]'",
    )
    path, _ = logged(tmp_path)
    for place in (tmp_path, path):
        read = reader.EventAccumulator(str(place)).Reload()
        found = read.Scalars("train/loss")
        assert [event.step for event in found] == [1, 300, 40_000]
        assert [event.value for event in found] == pytest.approx([1 / 7, 300 / 7, 40_000 / 7])
        assert set(read.Tags()["scalars"]) == {"train/loss", "große", "much"}
