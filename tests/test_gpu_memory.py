"""Clips as tensors: on the device where there is room, put aside where there is none."""

from types import SimpleNamespace

import psutil
import pytest
import torch
from conftest import coloured_clips, coloured_run

from ppfer.data.store import ClipStore
from ppfer.run.gpu_memory import Room


def test_protected_clips_make_room_where_memory_is_short(tiny_run, monkeypatch):
    run = coloured_run(tiny_run.config, tiny_run.dir.parent)
    first = run.tensor("protected/enhanced").clone()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=0))
    run.tensor("protected/ppfer")
    assert list(run.room.tensors) == list(run.room.stores) == ["protected/ppfer"]
    assert torch.equal(run.tensor("protected/enhanced"), first)


@pytest.fixture
def gpu(monkeypatch):
    """What a GPU says of its memory; what is changed in it, it says from then on."""
    said = {"mem_get_info": (0, 0), "memory_reserved": 0, "memory_allocated": 0}
    for name in said:
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: said[name])
    whole = SimpleNamespace(total_memory=100)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: whole)
    return said


def test_clips_that_a_gpu_has_no_room_for_stay_in_main_memory(gpu, capsys):
    store = ClipStore.in_memory(*coloured_clips())
    size, room = store.clips.nbytes, Room(torch.device("cuda"))
    gpu |= {"mem_get_info": (2 * size, 9 * size), "memory_reserved": 5, "memory_allocated": 4}
    assert room._fits(size) and not room._fits(size + 1)  # a byte more is free than the driver says
    gpu["memory_allocated"] = 5
    assert room.tensor("clips", lambda: store, {}).device.type == "cpu"
    assert "GiB of clips stay in main memory" in capsys.readouterr().out


def test_protected_clips_are_put_aside_while_more_than_a_share_is_taken(gpu):
    room, stores = Room(torch.device("cuda")), {}
    gpu |= {"memory_allocated": 30}
    for name in ("clips", "protected/enhanced", "protected/ppfer"):
        stores[name] = ClipStore.in_memory(*coloured_clips(1))
        room.tensors[name], room.stores[name] = stores[name].clips, stores[name]
    room.put_aside(0.4)
    assert len(room.tensors) == 3
    room.put_aside(0.2)
    assert list(room.tensors) == ["clips"] and len(room.stores) == 3
