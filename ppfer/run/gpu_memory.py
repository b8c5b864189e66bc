"""Where clips lie as tensors."""

from collections.abc import Callable
from dataclasses import dataclass, field

import psutil
import torch
from torch import Tensor

from ppfer.base.processes import is_main
from ppfer.data.store import ClipStore


@dataclass(eq=False)
class Room:
    """Where clips lie as tensors: on the GPU if there is one with room, else in main memory.

    Clips go to a GPU if they leave half of what is free there to the networks; else only batches
    go. Room is made by putting protected clips aside, the oldest first: from a GPU of which a fifth
    is taken to main memory, and out of that where less is left than four such stores take; then
    they are read or made again.
    """

    device: torch.device
    tensors: dict[str, Tensor] = field(default_factory=dict)
    stores: dict[str, ClipStore] = field(default_factory=dict)

    def tensor(self, name: str, load: Callable[[], ClipStore], loaded: dict[str, object]) -> Tensor:
        """(N, T, 3, H, W) uint8 pixels of the store `name`, which `load` gives; its owner keeps
        stores by name in `loaded`, from which those put out of memory are taken.
        """
        if name not in self.tensors:
            self.put_aside(0.2)
            for old in [n for n in loaded if n.startswith("protected/") and n != name]:
                store = loaded[old]
                if psutil.virtual_memory().available < 4 * store.clips.nbytes:
                    for kept in (self.tensors, self.stores, loaded):
                        kept.pop(old, None)
            store = self.stores[name] = load()
            there = isinstance(store.clips, Tensor) and store.clips.device.type == self.device.type
            fits = there or self._fits(store.clips.nbytes)
            if not fits and is_main():
                size = store.clips.nbytes / 2**30
                print(f"{name}: {size:.1f} GiB of clips stay in main memory, the GPU has no room")
            self.tensors[name] = store.to(self.device if fits else "cpu")
        return self.tensors[name]

    def put_aside(self, share: float = 0.0) -> None:
        """Move protected clips to main memory, the oldest first, while more than this share of the
        GPU is taken.
        """
        if self.device.type != "cuda":
            return
        total = torch.cuda.get_device_properties(self.device).total_memory
        for old in [n for n in self.tensors if n.startswith("protected/")]:
            if torch.cuda.memory_allocated(self.device) > share * total:
                del self.tensors[old]
                self.stores[old].offload()

    def _fits(self, size: int) -> bool:
        """Whether so many bytes of clips leave half of the device's free memory free."""
        if self.device.type != "cuda":
            return True
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return 2 * size < torch.cuda.mem_get_info(self.device)[0] + unused
